"""Animatable head geometry: the protocol, the embedded canonical head, FLAME."""
