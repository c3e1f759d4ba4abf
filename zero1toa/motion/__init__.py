"""Motion drivers: sequences of ARKit coefficients and head rotations."""
