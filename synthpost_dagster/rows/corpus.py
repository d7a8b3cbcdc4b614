"""Texts as one array of word numbers, so that word n-grams of millions of rows are counted and compared in numpy.

An n-gram is told by a 64-bit hash of its word numbers: among a hundred million different ones, a collision is expected
0.0003 times.
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
"""Words hashed at a time, so that what is held for a moment stays small."""


SEED_WORDS = 8
"""Shared runs of so many words are few, those of fewer words are everywhere."""


class Shared(NamedTuple):
    """The longest run of words that a text shares with any text of a corpus; `row` is the corpus's, -1 without one."""

    words: int
    row: int
    text: str


class Corpus:
    """Texts by their words, without case and punctuation."""

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
        """How many texts there are."""
        return len(self.ends) - 1

    def ngrams(self, size: int) -> np.ndarray[Any, Any]:
        """Hashes of all n-grams of `size` words that lie within one text, in their order (uint64)."""
        hashes: np.ndarray[Any, Any] = self._hashes(size)[self._is_within(size)]
        return hashes

    def starts(self, size: int) -> np.ndarray[Any, Any]:
        """At which word each n-gram of `size` words begins."""
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
        """Hashes of the n-grams of `size` words that begin at these words, each within one text."""
        import numpy as np

        found = np.zeros(len(starts), np.uint64)
        for at in range(size):
            found *= np.uint64(_BASE)
            found += (self.words[starts + at].astype(np.uint64) + np.uint64(1)) * np.uint64(_MIX)
        return found

    def row_of(self, word: int) -> int:
        """The text that a word stands in."""
        import numpy as np

        return int(np.searchsorted(self.ends, word, side="right")) - 1

    def _hashes(self, size: int) -> np.ndarray[Any, Any]:
        """Polynomial hashes of every window, those that cross from one text into the next as well."""
        import numpy as np

        found = np.zeros(max(0, len(self.words) - size + 1), np.uint64)
        for start in range(0, len(found), _CHUNK):
            part = found[start : start + _CHUNK]
            for at in range(start, start + size):
                part *= np.uint64(_BASE)
                part += (self.words[at : at + len(part)].astype(np.uint64) + np.uint64(1)) * np.uint64(_MIX)
        return found


class _Source:
    """The corpus that runs are looked for in. A long run can begin only where one of SEED_WORDS words begins that is
    asked for, and only there it is looked for.
    """

    def __init__(self, corpus: Corpus, asked: Corpus) -> None:
        import numpy as np

        self._corpus = corpus
        wanted = np.unique(asked.ngrams(SEED_WORDS))
        starts, hashes = corpus.starts(SEED_WORDS), corpus.ngrams(SEED_WORDS)
        place = np.minimum(np.searchsorted(wanted, hashes), max(0, wanted.size - 1))
        self._seeds = starts[wanted[place] == hashes] if wanted.size else starts[:0]

    def ngrams(self, size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The hashes of runs of `size` words that may be shared, and the words at which they begin."""
        import numpy as np

        if size < SEED_WORDS:
            return self._corpus.ngrams(size), self._corpus.starts(size)
        ends = self._corpus.ends
        fits = self._seeds + size <= ends[np.searchsorted(ends, self._seeds, side="right")]
        starts = self._seeds[fits]
        return self._corpus.ngrams_at(starts, size), starts


def longest_shared(texts: list[str], corpus: list[str]) -> list[Shared]:
    """For each text the longest run of words that any text of the corpus holds as well.

    A run of n words is shared only if its runs of n - 1 words are, so the length is found bit by bit, the largest
    first. The hashes of one length are held at a time.
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
    """Which texts hold a run of `size` words that the source holds too."""
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
    """The runs themselves, each with the first text of the corpus that holds it."""
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
    """Wanted hash → the first place at which it stands, for those that are there; `wanted` is sorted."""
    import numpy as np

    place = np.minimum(np.searchsorted(wanted, hashes), wanted.size - 1)
    at = np.flatnonzero(wanted[place] == hashes)
    values, first = np.unique(hashes[at], return_index=True)
    return dict(zip(values.tolist(), at[first].tolist(), strict=True))
