"""Texts as one array of word numbers, so that numpy counts and compares word n-grams of millions of rows.

N-grams are compared by a 64-bit hash of their word numbers: a hundred million different ones have 0.0003 expected
collisions.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.text.normalize import normalised

if TYPE_CHECKING:
    import numpy as np

_BASE = 0x9E3779B97F4A7C15
"""An odd number near 2**64 / φ: multiplying by it spreads small numbers over all bits."""
_MIX = 0xBF58476D1CE4E5B9
_CHUNK = 4_000_000
"""Words hashed at a time, to limit memory."""
SEED_WORDS = 8
"""Texts share few runs of this length, and many shorter ones."""


class Shared(NamedTuple):
    """The longest run of words that a text shares with a text of a corpus; `row` is that text's index, or -1."""

    words: int
    row: int
    text: str


class Corpus:
    """The words of texts, without case and punctuation."""

    def __init__(self, texts: Iterable[str], vocabulary: dict[str, int] | None = None) -> None:
        """Reads the texts once. Corpora to be compared share a `vocabulary`, which grows."""
        import numpy as np

        self.vocabulary = {} if vocabulary is None else vocabulary
        numbers, ends = array("I"), array("Q", [0])
        number_of = self.vocabulary.setdefault
        for text in texts:
            numbers.extend([number_of(word, len(self.vocabulary)) for word in normalised(text).split()])
            ends.append(len(numbers))
        self.words: np.ndarray[Any, Any] = np.frombuffer(numbers, dtype=np.uint32) if numbers else np.empty(0, "u4")
        self.ends: np.ndarray[Any, Any] = np.frombuffer(ends, dtype=np.uint64).astype(np.int64)

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.ends) - 1

    def ngrams(self, size: int) -> np.ndarray[Any, Any]:
        """Hashes (uint64) of all n-grams of `size` words within one text, in order."""
        hashes: np.ndarray[Any, Any] = self._hashes(size)[self._is_within(size)]
        return hashes

    def starts(self, size: int) -> np.ndarray[Any, Any]:
        """Index of the first word of each n-gram of `size` words."""
        import numpy as np

        return np.flatnonzero(self._is_within(size))

    def _is_within(self, size: int) -> np.ndarray[Any, Any]:
        """Whether each window of `size` words lies within one text."""
        import numpy as np

        is_within = np.ones(max(0, len(self.words) - size + 1), bool)
        for back in range(1, size):
            at = self.ends[1:-1] - back
            is_within[at[(at >= 0) & (at < len(is_within))]] = False
        return is_within

    def part(self, rows: Sequence[int]) -> Corpus:
        """The texts of these rows, in the order given."""
        import numpy as np

        part = Corpus((), self.vocabulary)
        pieces = [self.words[self.ends[row] : self.ends[row + 1]] for row in rows]
        part.words = np.concatenate(pieces) if pieces else self.words[:0]
        part.ends = np.cumsum([0, *map(len, pieces)])
        return part

    def ngrams_at(self, starts: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
        """Hashes of the n-grams of `size` words that begin at the words with the given indices."""
        import numpy as np

        found = np.zeros(len(starts), np.uint64)
        for at in range(size):
            found *= np.uint64(_BASE)
            found += (self.words[starts + at].astype(np.uint64) + np.uint64(1)) * np.uint64(_MIX)
        return found

    def row_of(self, word: int) -> int:
        """Index of the text that has the word with the given index."""
        import numpy as np

        return int(np.searchsorted(self.ends, word, side="right")) - 1

    def _hashes(self, size: int) -> np.ndarray[Any, Any]:
        """Polynomial hashes of every window of `size` words, across texts too."""
        import numpy as np

        found = np.zeros(max(0, len(self.words) - size + 1), np.uint64)
        for start in range(0, len(found), _CHUNK):
            part = found[start : start + _CHUNK]
            for at in range(start, start + size):
                part *= np.uint64(_BASE)
                part += (self.words[at : at + len(part)].astype(np.uint64) + np.uint64(1)) * np.uint64(_MIX)
        return found


class _Source:
    """The corpus that is searched. A run of SEED_WORDS or more words is searched for only where its first SEED_WORDS
    words occur in the other texts.
    """

    def __init__(self, corpus: Corpus, texts: Corpus) -> None:
        import numpy as np

        self._corpus = corpus
        wanted = np.unique(texts.ngrams(SEED_WORDS))
        starts, hashes = corpus.starts(SEED_WORDS), corpus.ngrams(SEED_WORDS)
        place = np.minimum(np.searchsorted(wanted, hashes), max(0, wanted.size - 1))
        self._seeds = starts[wanted[place] == hashes] if wanted.size else starts[:0]

    def ngrams(self, size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Hashes of the runs of `size` words that may be shared, and the indices of their first words."""
        import numpy as np

        if size < SEED_WORDS:
            return self._corpus.ngrams(size), self._corpus.starts(size)
        ends = self._corpus.ends
        fits = self._seeds + size <= ends[np.searchsorted(ends, self._seeds, side="right")]
        starts = self._seeds[fits]
        return self._corpus.ngrams_at(starts, size), starts


def longest_shared(texts: list[str], corpus: list[str]) -> list[Shared]:
    """The longest run of words that each text shares with any text of the corpus.

    A run of n words is shared only if its runs of n - 1 words are, so the length is found bit by bit, the highest bit
    first.
    """
    import numpy as np

    known = Corpus(corpus)
    asked = Corpus(texts, known.vocabulary)
    source, lengths = _Source(known, asked), np.diff(asked.ends)
    sizes = np.zeros(len(asked), np.int64)
    for bit in reversed(range(int(lengths.max(initial=0)).bit_length())):
        tried = sizes + (1 << bit)
        for size in np.unique(tried[tried <= lengths]):
            sizes[(tried == size) & (tried <= lengths) & _rows_sharing(asked, int(size), source)] = size
    return _runs(asked, sizes, source, known, corpus)


def _rows_sharing(asked: Corpus, size: int, source: _Source) -> np.ndarray[Any, Any]:
    """Whether each text has a run of `size` words that the source has too."""
    import numpy as np

    is_sharing = np.zeros(len(asked), bool)
    hashes, _ = source.ngrams(size)
    hashes.sort()
    if hashes.size:
        own = asked.ngrams(size)
        place = np.minimum(np.searchsorted(hashes, own), hashes.size - 1)
        found = asked.starts(size)[hashes[place] == own]
        is_sharing[np.searchsorted(asked.ends, found, side="right") - 1] = True
    return is_sharing


def _runs(
    asked: Corpus, sizes: np.ndarray[Any, Any], source: _Source, known: Corpus, corpus: list[str]
) -> list[Shared]:
    """The runs, each with the first text of the corpus that has it."""
    import numpy as np

    found = [Shared(0, -1, "")] * len(asked)
    for size in map(int, np.unique(sizes[sizes > 0])):
        rows = np.flatnonzero(sizes == size)
        own = [asked.part([int(row)]).ngrams(size) for row in rows]
        hashes, starts = source.ngrams(size)
        first = _first_places(hashes, np.unique(np.concatenate(own)))
        for row, grams in zip(rows, own, strict=True):
            at = int(starts[min(first[gram] for gram in grams.tolist() if gram in first)])
            text = known.row_of(at)
            begin = at - int(known.ends[text])
            found[row] = Shared(size, text, " ".join(normalised(corpus[text]).split()[begin : begin + size]))
    return found


def _first_places(hashes: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> dict[int, int]:
    """Hash → its first index, for each hash of the sorted array `wanted` that occurs."""
    import numpy as np

    place = np.minimum(np.searchsorted(wanted, hashes), wanted.size - 1)
    at = np.flatnonzero(wanted[place] == hashes)
    values, first = np.unique(hashes[at], return_index=True)
    return dict(zip(values.tolist(), at[first].tolist(), strict=True))
