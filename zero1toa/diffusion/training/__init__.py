"""Training of the compact backbone: ``python -m zero1toa.diffusion.training``; see ``docs/compact_backbone.md``."""
