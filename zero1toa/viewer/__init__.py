"""Looking at avatars interactively."""
