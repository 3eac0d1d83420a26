"""Frozen tokens of fixed views on the disk: the backbone runs over each once, and later epochs only read."""
