"""Code that tests share: small tasks and studies, a scripted chat server, processes that tests kill.

A helper used by one test module belongs in that module; a fixture belongs in a conftest. mypy checks this package.
"""
