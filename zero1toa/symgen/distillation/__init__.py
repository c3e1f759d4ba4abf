"""Score distillation of renders: the baselines that the symbiotic dataset replaces (paper sec. 1 and 5.2)."""
