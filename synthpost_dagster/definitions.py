"""The code location: `defs` is the graph of the task and the profile that the environment names.

https://docs.dagster.io/guides/build/projects. How the graph is built is in `graph`.
"""

from synthpost_dagster.orchestration.build import build_definitions
from synthpost_dagster.settings import read_settings

defs = build_definitions(read_settings())
