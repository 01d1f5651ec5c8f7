"""Exports of a run: a SavedModel for TensorFlow Serving, TFLite for edge boxes, and the gate for both."""
