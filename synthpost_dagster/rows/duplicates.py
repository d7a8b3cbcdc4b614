"""Near-duplicates: MinHash with locality-sensitive hashing finds candidates, the exact Jaccard index decides.

Posts are compared as sets of word 3-grams (Broder 1997, https://doi.org/10.1109/SEQUEN.1997.666900; banding: Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, 3.4). With 20 bands of 5 hashes a pair at a Jaccard index of 0.75
becomes a candidate with probability 0.996, one at 0.7 with 0.975, and one at 0.1 with 0.0002, which costs time only.
More bands find more and take 90 bytes a post and band.
"""

from typing import NamedTuple

from synthpost_dagster.text.normalize import normalised

SHINGLE_WORDS = 3
HASHES = 100
BANDS = 20
SEED = 0


class Neighbour(NamedTuple):
    """An earlier post that is nearly the same."""

    key: str
    jaccard: float


class NearDuplicates:
    """An index of posts by key that finds near-duplicates."""

    def __init__(self, threshold: float) -> None:
        """`threshold` is the minimum Jaccard index of near-duplicates."""
        from rensa import RMinHashLSH

        self._threshold = threshold
        self._index = RMinHashLSH(threshold=threshold, num_perm=HASHES, num_bands=BANDS)
        self._keys: list[str] = []
        self._posts: list[str] = []
        self._sizes: list[int] = []

    def add_unless_near(self, key: str, post: str) -> Neighbour | None:
        """The nearest earlier post under another key; if there is none, the post is added under its key.

        A post that equals an earlier one apart from case, space and punctuation is a duplicate, not a near-duplicate.
        """
        from rensa import RMinHash

        text = normalised(post)
        shingles = shingled(text)
        minhash = RMinHash(HASHES, SEED)
        minhash.update(sorted(shingles))
        best: Neighbour | None = None
        for at in self._index.query(minhash):
            if self._keys[at] == key:
                continue
            # The index of two sets is at most the ratio of their sizes.
            small, large = sorted((self._sizes[at], len(shingles)))
            if small < self._threshold * large or (other := normalised(self._posts[at])) == text:
                continue
            jaccard = _jaccard(shingles, shingled(other))
            if jaccard >= self._threshold and (best is None or jaccard > best.jaccard):
                best = Neighbour(self._keys[at], jaccard)
        if best is None:
            self._index.insert(len(self._keys), minhash)
            self._keys.append(key)
            self._posts.append(post)
            self._sizes.append(len(shingles))
        return best


def shingled(text: str) -> set[str]:
    """The word 3-grams of a normalised text; a shorter text counts as one."""
    words = text.split()
    if len(words) <= SHINGLE_WORDS:
        return {text}
    return {" ".join(words[at : at + SHINGLE_WORDS]) for at in range(len(words) - SHINGLE_WORDS + 1)}


def _jaccard(first: set[str], second: set[str]) -> float:
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)
