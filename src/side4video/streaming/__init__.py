"""Long videos, live streams, and several models on one pass: windows that slide over frames as they come."""
