"""What a run is worth: retrieval, pointing, search."""
