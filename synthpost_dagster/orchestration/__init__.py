"""All of Dagster, and nothing else."""
