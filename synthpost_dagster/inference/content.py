"""The digest of a model's folder: its configuration, tokenizer, chat templates and weights.

Files are hashed completely. Digests of large files are cached in the user's cache folder and reused while size, inode,
mtime and ctime stay the same. A cache that cannot be read or written only costs time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference.weights import check_weights, weight_files
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.settings import cache_folder

SHAPING = ("*.json", "*.jinja", "*/*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
"""Files beside the weights that shape a model's output: configuration, tokenizer, chat templates."""
CHUNK = 2**26
"""Bytes that one thread hashes at a time."""
MIN_CACHED_BYTES = 2**26
MIN_AGE_SECONDS = 2.0
"""A file changed more recently is not cached: it could change again within one tick of the file system's clock."""
MAX_THREADS = 8

_known: dict[str, str] = {}


def folder_digest(folder: Path) -> str:
    """16 hex digits over the names and contents of all files that shape the model.

    Raises ModelError if weights are missing, damaged, or pickles, or if a file cannot be read.
    """
    check_weights(folder)
    weights = weight_files(folder)
    others = {path for pattern in SHAPING for path in folder.glob(pattern) if path.is_file()}
    digest = hashlib.sha256()
    try:
        for path in sorted(others):
            digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        for path in weights:
            digest.update(f"{path.name} {_file_digest(path)}\n".encode())
    except OSError as error:
        raise ModelError(
            f"{error.filename or folder} cannot be read ({error.strerror}); check its permissions"
        ) from error
    return digest.hexdigest()[:16]


def _file_digest(path: Path) -> str:
    key, changed_at = _state(path)
    if key in _known:
        return _known[key]
    is_large = path.stat().st_size >= MIN_CACHED_BYTES
    if is_large and (found := _read_cache().get(key)) is not None:
        _known[key] = found
        return found
    started = time.time()
    digest = _hashed(path)
    if _state(path)[0] == key and changed_at < started - MIN_AGE_SECONDS:
        _known[key] = digest
        if is_large:
            earlier = f"{path.resolve()} "
            others = {state: kept for state, kept in _read_cache().items() if not state.startswith(earlier)}
            _write_cache({**others, key: digest})
    return digest


def _state(path: Path) -> tuple[str, float]:
    """The cache key of a file, which changes with the file, and the time of the last change."""
    path = path.resolve()
    found = path.stat()
    state = f"{path} {found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
    return state, max(found.st_mtime, found.st_ctime)


def _hashed(path: Path) -> str:
    """SHA-256 over the SHA-256 of each chunk, computed by several threads."""
    size, started, digest = path.stat().st_size, time.monotonic(), hashlib.sha256()
    progress, is_slow = Progress(), size >= MIN_CACHED_BYTES
    starts = range(0, max(size, 1), CHUNK)
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        for index, part in enumerate(pool.map(lambda start: _chunk_digest(path, start), starts)):
            digest.update(part)
            done = min(size, (index + 1) * CHUNK)
            if is_slow:
                rate = done / max(time.monotonic() - started, 1e-9) / 1e6
                progress.update(f"hashing {path.name}", done >> 20, size >> 20, "MiB", f"{rate:,.0f} MB/s")
    return digest.hexdigest()


def _chunk_digest(path: Path, start: int) -> bytes:
    digest, left = hashlib.sha256(), CHUNK
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while left and (part := file.read(min(left, 2**20))):
            digest.update(part)
            left -= len(part)
    return digest.digest()


def _cache_file() -> Path:
    return cache_folder() / "weights.json"


def _read_cache() -> dict[str, str]:
    """The cached digests; empty if the file is missing or damaged."""
    try:
        found = json.loads(_cache_file().read_text(encoding="utf-8"))
        return {key: value for key, value in found.items() if isinstance(value, str) and len(value) == 64}
    except (OSError, ValueError, AttributeError, RuntimeError):
        return {}


def _write_cache(digests: dict[str, str]) -> None:
    """Replaces the cache atomically; if two processes write at once, one entry is lost and hashed again later."""
    with suppress(OSError, RuntimeError):
        file = _cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as draft:
                json.dump(digests, draft, indent=1)
            Path(name).replace(file)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
