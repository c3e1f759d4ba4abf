"""Metrics, measured control, synthetic subjects with ground truth."""
