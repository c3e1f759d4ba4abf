"""Portrait video diffusion: protocol, registry, inversion, guided sampling, one file per backbone."""
