"""Data: the image contract, manifests, phantoms and the input pipeline."""
