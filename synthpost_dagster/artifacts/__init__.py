"""Artifacts on disk or in an object store: fingerprints, manifests, and the store that publishes and finds them."""
