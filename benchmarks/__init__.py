"""Benchmarks: a command for each question, which prints a table of ratios measured in one run."""
