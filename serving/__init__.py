"""The deployment: clients of TensorFlow Serving, a double of it for tests, and the online diagnosis page."""
