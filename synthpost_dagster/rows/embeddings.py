"""Diversity of meaning: the Vendi score and semantic near-duplicates, if the profile names a sentence embedder.

The embedder is a folder that sentence-transformers reads (the extra `embeddings`); nothing is downloaded.
Vendi score: Friedman and Dieng 2023, https://arxiv.org/abs/2210.02410.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthpost_dagster.errors import SpecError

if TYPE_CHECKING:
    import numpy as np

VENDI_POSTS = 500
EMBEDDED_POSTS = 20_000
"""Size of the seeded sample of a larger table."""
NEAR_COSINE = 0.95
SEED = 0
_BLOCK = 1_000


def meaning(posts: list[str], folder: Path) -> dict[str, float]:
    """`vendi`: effective number of different posts in a sample over its size. `semantic_near_share`: share of the posts
    whose cosine with an earlier one is at least 0.95.

    Raises SpecError if the embedder is missing or cannot be read. NaN for fewer than two posts.
    """
    import numpy as np

    if len(posts) < 2:
        return {"vendi": float("nan"), "semantic_near_share": float("nan")}
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(posts))[:EMBEDDED_POSTS])
    vectors = embedded([posts[at] for at in chosen], folder)
    sample = np.random.default_rng(SEED).permutation(len(vectors))[:VENDI_POSTS]
    return {"vendi": vendi(vectors[sample]), "semantic_near_share": near_share(vectors)}


def embedded(posts: list[str], folder: Path) -> np.ndarray[Any, Any]:
    """A vector of length 1 for each post, on the CPU (n × dimensions, float32)."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise SpecError(
            "`embedder` in the profile needs sentence-transformers: install synthpost[embeddings]"
        ) from None
    if not folder.is_dir():
        raise SpecError(f"{folder}: there is no such folder; correct `embedder` in the profile, or set it to null")
    _refuse_code(folder)
    try:
        model = SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError, KeyError) as error:
        raise SpecError(
            f"{folder}: sentence-transformers cannot read this embedder: {error}; correct `embedder` in the profile"
        ) from None
    found: np.ndarray[Any, Any] = model.encode(posts, normalize_embeddings=True, show_progress_bar=False)
    return found


def _refuse_code(folder: Path) -> None:
    """Raises SpecError if the embedder has its own Python code, or pickles."""
    modules = folder / "modules.json"
    try:
        kinds = [str(module["type"]) for module in json.loads(modules.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        kinds = []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{modules} is damaged ({error!r}); copy or download the embedder again") from None
    if foreign := [kind for kind in kinds if not kind.startswith("sentence_transformers.")]:
        raise SpecError(f"{modules}: {foreign[0]} is Python code of the embedder, which is never run; use another")
    for pickle in sorted(folder.rglob("pytorch_model*.bin")):
        if not list(pickle.parent.glob("model*.safetensors")):
            raise SpecError(f"{pickle} is a pickle, which can run code when it is read; convert it to safetensors")


def vendi(vectors: np.ndarray[Any, Any]) -> float:
    """Effective number of different vectors over their number, 1/n (all alike) to 1.

    The effective number is the exponential of the entropy of the eigenvalues of the vectors' cosines.
    """
    import numpy as np

    count = len(vectors)
    eigenvalues = np.linalg.eigvalsh(vectors.astype(np.float64) @ vectors.T.astype(np.float64) / count)
    positive = eigenvalues[eigenvalues > np.finfo(float).eps]
    return float(np.exp(-(positive * np.log(positive)).sum()) / count)


def near_share(vectors: np.ndarray[Any, Any]) -> float:
    """Share of the vectors whose cosine with an earlier one is at least 0.95."""
    import numpy as np

    near = 0
    for start in range(0, len(vectors), _BLOCK):
        cosines = vectors[start : start + _BLOCK] @ vectors[: start + _BLOCK].T
        is_earlier = np.arange(cosines.shape[1]) < np.arange(start, start + len(cosines))[:, None]
        near += int(((cosines >= NEAR_COSINE) & is_earlier).any(axis=1).sum())
    return near / len(vectors)
