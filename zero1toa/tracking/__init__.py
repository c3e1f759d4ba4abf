"""Where a run's numbers and pictures go: JSONL, W&B, the console and the HTML report."""
