"""What a run is: the schema of its settings, and the named presets."""
