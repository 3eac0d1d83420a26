"""Data sets as published, made ready for training: checked, resized, listed."""
