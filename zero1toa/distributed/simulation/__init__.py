"""A batch on the clock of a simulation: what a number of GPUs would do with a number of portraits, in seconds."""
