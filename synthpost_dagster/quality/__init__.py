"""The gates: what a table of an asset must satisfy, with the limits and what a failure says."""
