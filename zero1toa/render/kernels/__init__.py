"""Compiled kernels. Module-level functions over plain arrays, since only those are found again in numba's cache."""
