"""The embedded model: the grammar of its training text, and the script that trains it again."""
