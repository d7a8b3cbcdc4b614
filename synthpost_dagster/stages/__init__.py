"""The stages of a study in the order data flows: typed inputs, their fingerprint, and how each artifact is made.

`stage.py` lists the stages and materializes them. Nothing here imports Dagster; assets, command line and tests call the
same functions.
"""
