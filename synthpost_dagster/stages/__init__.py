"""The stages of a study, one after the other: what shapes each artifact, and how it is made.

Each stage has a function `<asset>_plan` (everything that goes into the fingerprint) and one named as the asset, which
reuses the artifact or makes it. They know nothing of Dagster; assets, driver, sensors and tests call them alike.
"""
