"""Measurements against the bare thing, side by side in one run: figures, no assertions."""
