"""A batch of portraits: what comes in, what is checked, what became of each. No Ray in it."""
