"""Sequences of ARKit coefficients and what they come from."""
