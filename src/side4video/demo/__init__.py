"""The whole job on data that the package draws itself."""
