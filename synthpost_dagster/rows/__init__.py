"""Rows: prompts, synthesis, cleaning and rejection of replies, subsets, and measures of their quality."""
