"""Gaussians bound to the triangles of a head: rigging, initialisation, losses, density control, bundles."""
