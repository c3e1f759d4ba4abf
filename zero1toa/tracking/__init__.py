"""Numbers and pictures of a run: JSONL, console, W&B, the HTML report."""
