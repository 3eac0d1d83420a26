"""Side4Video."""
