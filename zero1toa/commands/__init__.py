"""What the commands of :mod:`zero1toa.cli` do."""
