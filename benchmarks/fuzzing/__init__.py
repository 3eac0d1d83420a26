"""Inputs that are meant to break the readers, and the judges that say what came of them. `benchmarks/fuzz.py` runs them."""
