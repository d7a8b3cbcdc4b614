"""Synthpost: how much synthetic data and training a narrow task needs, as a Dagster asset graph.

Nothing is imported here: `synthpost_dagster.definitions` has the graph, `synthpost_dagster.cli` the command line.
"""
