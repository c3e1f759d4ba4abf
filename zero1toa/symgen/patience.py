"""How often the work on a clip may fail before it is given up."""

from __future__ import annotations

MAX_ATTEMPTS = 3
"""Times a clip is tried before it is given up, and its avatar with it."""
