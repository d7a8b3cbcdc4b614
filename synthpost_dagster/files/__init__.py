"""Reads files of users: YAML and tables."""
