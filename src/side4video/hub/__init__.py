"""Runs on a model hub: what goes up, the page that describes it, and what is checked of a run that comes down."""
