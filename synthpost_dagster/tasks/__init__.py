"""The writing task under study: its records (`spec`), its files (`loading`) and its prompts (`prompting`)."""
