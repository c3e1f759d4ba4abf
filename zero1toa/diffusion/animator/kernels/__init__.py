"""CUDA kernels for what torch runs in several passes over memory, or on tiles far larger than the task."""
