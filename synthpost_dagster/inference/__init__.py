"""Models in this process: loading them, with or without an adapter, and generating text."""
