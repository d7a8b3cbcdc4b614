"""The assets: one table of what differs between them, and one factory.

https://docs.dagster.io/guides/build/assets. What an asset is made of, and how, is in `stages`.
"""
