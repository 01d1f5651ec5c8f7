"""Models: seven backbones, the twin heads and their initial weights."""
