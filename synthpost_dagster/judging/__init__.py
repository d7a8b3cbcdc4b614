"""Judges: criteria on text, the rubric, model judges, and reading of their replies."""
