"""Which clip is refined next and how much of it is unlocked (paper sec. 4.2)."""
