"""Made-up companies and products, so that the embedded model learns to copy names and not to know them."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from typing import Any

from synthpost_dagster.files.yaml_files import read_mapping
from synthpost_dagster.tasks.items import Group, Item

_SLOT = re.compile(r"\{([a-z_]+)\}")


@cache
def _words() -> dict[str, Any]:
    return read_mapping(Path(__file__).with_name("words.yaml"))


def coined_name(rng: random.Random) -> str:
    """A company name of two or three syllables that means nothing."""
    name = "".join(rng.choice(_words()["syllables"]) for _ in range(rng.choice([2, 2, 3])))
    return name.capitalize()


def made_up_product(rng: random.Random, descriptions: list[str]) -> Item:
    """A product of a company, their texts drawn from the word lists.

    `descriptions` are real product descriptions; half the products get one of them with words exchanged, so that the
    model meets many words in places where only copying helps.
    """
    name, offering = coined_name(rng), f"{_pick('adjectives', rng)} {_plural(_pick('nouns', rng))}"
    market = _pick("people", rng)
    product = _coined_product(rng) if rng.random() < 0.5 else _shuffled_product(rng, descriptions)
    company = {
        "name": name,
        "industry": _pick("industries", rng),
        "mission": _phrase("missions", rng),
        "unique_selling_point": _phrase("usps", rng),
        "target_market": market,
        "offering": offering,
        "size": _phrase("sizes", rng),
        "history": _phrase("histories", rng),
        "audience": f"{_pick('people', rng)} {_pick('places', rng)}",
        "short_description": short_description(name, offering, market, rng),
    }
    return Item(product["name"], Group(name, company), product, {}, "train")


def _coined_product(rng: random.Random) -> dict[str, str]:
    """A name of two words and a noun phrase that says what it is."""
    noun = _pick("nouns", rng)
    first = coined_name(rng) if rng.random() < 0.4 else _pick("first_names", rng)
    last = coined_name(rng) if rng.random() < 0.2 else noun.title()
    adjective = _pick("adjectives", rng)
    head = coined_name(rng).lower() if rng.random() < 0.1 else noun
    article = "an" if adjective[0] in "aeiou" else "a"
    start = _plural(f"{adjective} {head}") if rng.random() < 0.3 else f"{article} {adjective} {head}"
    ends = (
        "that {verb} {object} {place}",
        "with {count} {thing} for {people}",
        "for {people} {place}",
        "made of {material} and {material}",
        "that {verb} {object} and {verb} {object}",
        "of {material} with {count} {thing}",
        "which {verb} {object} for {people}",
    )
    return {"name": f"{first} {last}", "description": f"{start} {_fill(rng.choice(ends), rng)}"}


def _shuffled_product(rng: random.Random, descriptions: list[str]) -> dict[str, str]:
    strange = [word for _ in range(4) for word in rng.choice(descriptions).split() if len(word) > 3]
    words = rng.choice(descriptions).split()
    words = [_stranger(rng, strange) if len(word) > 3 and rng.random() < 0.4 else word for word in words]
    name = " ".join(_stranger(rng, strange).strip(",-").title() for _ in range(2))
    return {"name": name, "description": " ".join(words)}


def _stranger(rng: random.Random, strange: list[str]) -> str:
    """A real word where it does not belong, or one that does not exist, with an ending that does."""
    if rng.random() < 0.5:
        return rng.choice(strange)
    return coined_name(rng).lower() + rng.choice(["", "", "s", "ed", "ing", "er", "ers", "y", "en", "ly"])


def short_description(name: str, offering: str, market: str, rng: random.Random) -> str:
    """One sentence that says what the company does, as the student's prompt shows it."""
    verb = rng.choice(["makes", "sells", "builds", "offers", "designs", "brings", "sends", "crafts"])
    joint = rng.choice(["for", "to"])
    return f"{name} {verb} {offering} {joint} {market}."


def _plural(noun: str) -> str:
    return noun if noun.endswith("s") else noun + ("es" if noun.endswith(("x", "ch", "sh")) else "s")


def _pick(name: str, rng: random.Random) -> str:
    return str(rng.choice(_words()[name]))


def _phrase(name: str, rng: random.Random) -> str:
    return _fill(_pick(name, rng), rng)


def _fill(text: str, rng: random.Random) -> str:
    def slot(match: re.Match[str]) -> str:
        name = match.group(1)
        if name == "number":
            return str(rng.randint(3, 400))
        if name == "year":
            return str(rng.randint(1890, 2023))
        words = _words()
        for candidate in (name, name + "s"):
            if candidate in words:
                return _pick(candidate, rng)
        raise KeyError(f"words.yaml has no list for the slot {name!r}")

    return _SLOT.sub(slot, text)
