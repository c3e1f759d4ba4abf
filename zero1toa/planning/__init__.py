"""What a run will do and cost, known before it starts and without a GPU."""
