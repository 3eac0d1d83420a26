"""Frozen image models: what they promise (`base`), their adapters, and how one is made (`create`)."""
