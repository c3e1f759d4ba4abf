"""The SymGEN dataset store, refinement of one clip, reconstruction of one avatar, the serial loop."""
