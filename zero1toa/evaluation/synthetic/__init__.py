"""Synthetic head subjects with ground truth, for training the compact backbone and for measuring everything else."""

from zero1toa.evaluation.synthetic.clips import HELD_OUT_SEED, KINDS, SyntheticClips

__all__ = ["HELD_OUT_SEED", "KINDS", "SyntheticClips"]
