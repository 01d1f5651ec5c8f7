"""A double of TensorFlow Serving, for tests and for trying things without Docker: `python -m serving.double`."""
