"""The package's version, in one place that neither torch nor the rest of the package is needed to read."""

__version__ = "0.1.0"
