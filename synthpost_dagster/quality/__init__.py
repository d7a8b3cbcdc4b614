"""The gates on tables, and the explanations of failures."""
