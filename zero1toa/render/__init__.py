"""Cameras and one rasteriser function: gsplat on CUDA, its compiled twin on CPU, a plain torch reference."""
