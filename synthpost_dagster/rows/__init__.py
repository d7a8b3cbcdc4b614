"""Rows of data: catalog and prompts as tables, cleaning and rejection of replies, subsets, and the gates on them."""
