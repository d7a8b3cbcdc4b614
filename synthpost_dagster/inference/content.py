"""The files of a model's folder: the check that its weights are complete, and the digest of its content.

Weights are checked by their headers and sizes, and files are hashed completely. Digests of large files are cached in
the user's cache folder and reused while size, inode, mtime and ctime stay the same. A cache that cannot be read or
written only costs time. Nothing here imports torch or reads a pickle.
"""

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from synthpost_dagster.errors import ModelError
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.settings import cache_folder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SHAPING = ("*.json", "*.jinja", "*/*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
"""Files beside the weights that shape a model's output: configuration, tokenizer, chat templates."""
CHUNK = 2**26
"""Bytes; a file's digest is the SHA-256 over the SHA-256 of each chunk."""
MIN_CACHED_BYTES = 2**26
MIN_AGE_SECONDS = 2.0
"""A file changed more recently is not cached: it could change again within one tick of the file system's clock."""

_known: dict[str, str] = {}


def weight_files(folder: Path) -> list[Path]:
    """The weight files that transformers reads.

    Raises ModelError if there are none, if they are pickles, or if the index of several cannot be read.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(_weight_map(folder / INDEX).values()))]
    pickled = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"{folder}: the weights are pickles ({pickled[0]}), which can run code when they are read; only "
            "safetensors are read. If you trust their source, convert them: python -c 'from transformers import "
            f'AutoModelForCausalLM as M; M.from_pretrained("{folder}").save_pretrained("{folder}")\''
        )
    raise ModelError(f"{folder}: no weights there; copy the model's {WEIGHTS}, or {INDEX} and the files it names")


def check_weights(folder: Path) -> None:
    """Raises ModelError if a weight file is missing, damaged, or shorter than its header says."""
    from safetensors import SafetensorError, safe_open

    found: set[str] = set()
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="numpy") as weights:
                found |= set(weights.keys())
        except FileNotFoundError:
            raise ModelError(f"{file} is missing, and {INDEX} names it; copy or download it again") from None
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"{file} is damaged or incomplete ({reason}); copy or download it again") from error
    if (folder / WEIGHTS).is_file():
        return
    if missing := sorted(set(_weight_map(folder / INDEX)) - found):
        raise ModelError(
            f"{folder / INDEX} names {len(missing)} tensors that no file has, such as {missing[0]}; "
            "download the model again"
        )


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor → file name. Raises ModelError if a name leads out of the folder or is no safetensors file."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        found = {str(tensor): str(name) for tensor, name in named.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is damaged ({error!r}); download it again") from error
    for name in found.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: {name!r} is not a safetensors file of this folder; download the model again")
    return found


def folder_digest(folder: Path) -> str:
    """16 hex digits over the names and contents of all files that shape the model.

    Raises ModelError if weights are missing, damaged, or pickles, or if a file cannot be read.
    """
    check_weights(folder)
    others = {path for pattern in SHAPING for path in folder.glob(pattern) if path.is_file()}
    digest = hashlib.sha256()
    try:
        for path in sorted(others):
            digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        for path in weight_files(folder):
            digest.update(f"{path.name} {_file_digest(path)}\n".encode())
    except OSError as error:
        raise ModelError(
            f"{error.filename or folder} cannot be read ({error.strerror}); check its permissions"
        ) from error
    return digest.hexdigest()[:16]


def _file_digest(path: Path) -> str:
    key, changed_at = _state(path)
    is_large = path.stat().st_size >= MIN_CACHED_BYTES
    digest = _known.get(key) or (_read_cache().get(key) if is_large else None)
    if digest is None:
        started, digest = time.time(), _hashed(path)
        if _state(path)[0] != key or changed_at >= started - MIN_AGE_SECONDS:
            return digest
        if is_large:
            earlier = f"{path.resolve()} "
            others = {state: kept for state, kept in _read_cache().items() if not state.startswith(earlier)}
            _write_cache({**others, key: digest})
    _known[key] = digest
    return digest


def _state(path: Path) -> tuple[str, float]:
    """The cache key of a file, which changes with the file, and the time of the last change."""
    path = path.resolve()
    found = path.stat()
    state = f"{path} {found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
    return state, max(found.st_mtime, found.st_ctime)


def _hashed(path: Path) -> str:
    size, started, digest, done, progress = path.stat().st_size, time.monotonic(), hashlib.sha256(), 0, Progress()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(hashlib.sha256(chunk).digest())
            done += len(chunk)
            if size >= MIN_CACHED_BYTES:
                rate = done / max(time.monotonic() - started, 1e-9) / 1e6
                progress.update(f"hashing {path.name}", done >> 20, size >> 20, "MiB", f"{rate:,.0f} MB/s")
    return digest.hexdigest()


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
