"""Synthetic head subjects with ground truth, for training the compact backbone and for measuring everything else."""

from zero1toa.evaluation.synthetic.clips import HELD_OUT_SEED, KINDS, SyntheticClips
from zero1toa.evaluation.synthetic.held_out import SyntheticSubject, held_out_subject

__all__ = ["HELD_OUT_SEED", "KINDS", "SyntheticClips", "SyntheticSubject", "held_out_subject"]
