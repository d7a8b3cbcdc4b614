"""Files that people give us: YAML and tables."""
