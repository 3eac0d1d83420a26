"""Videos on disk become batches of clips."""
