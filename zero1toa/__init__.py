"""zero1toa: one portrait photo to an animatable 3D head avatar, after Zero-1-to-A (CVPR 2025)."""

__version__ = "0.1.0"
