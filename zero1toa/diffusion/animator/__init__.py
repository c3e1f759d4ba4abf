"""The public portrait animators (Stable Diffusion 1.5 with motion modules and a reference network), written once."""
