"""The diagnosis page: `python -m serving.webapp`."""
