"""Random posts that pass every gate."""

from __future__ import annotations

import random

_TEXT = (
    "amber anchor apple autumn basket bright bridge candle canvas cedar charm cheerful clever cloud copper corner "
    "cosy cotton crisp curious dawn delight dozen early easy echo ember evening family feather fern festive field "
    "fresh friendly garden gentle glow golden harvest honest island jolly kettle kitchen ladder lantern lively "
    "maple meadow mellow merry mirror morning mountain neighbour ocean orchard parcel pebble picnic pocket proud "
    "quiet ribbon river saddle season shelter silver simple spark sturdy summer sunny table thunder tidy timber "
    "travel velvet village warm weekend willow window winter wonder yellow zest"
)
WORDS = _TEXT.split()


def varied_posts(count: int, seed: int = 0, words: list[str] = WORDS, length: int = 14) -> list[str]:
    """`count` posts of `length` words in two sentences; the same ones for the same arguments."""
    generator = random.Random(seed)
    drawn = [generator.choices(words, k=length) for _ in range(count)]
    return [f"{' '.join(w[:6]).capitalize()}. {' '.join(w[6:]).capitalize()}!" for w in drawn]
