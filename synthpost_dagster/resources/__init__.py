"""Dagster resources: config shells that hand out plain objects.

https://docs.dagster.io/guides/build/external-resources
"""
