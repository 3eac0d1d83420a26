"""Inputs that are meant to break the readers, and judges of what came of them; `benchmarks/fuzz.py` runs them."""
