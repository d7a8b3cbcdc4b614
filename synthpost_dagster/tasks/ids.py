"""Hashes that are the same on every machine."""

import hashlib


def short_hash(*parts: str) -> str:
    """16 hex digits of SHA-256 over the parts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
