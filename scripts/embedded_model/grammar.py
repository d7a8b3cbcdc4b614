"""The grammar whose posts the embedded model was trained on.

A post is put together from parts, one for each criterion of the packaged task `sales_posts`; a criterion that is not
obeyed gets no part, or a plain one. What a sentence says stands in `phrases.yaml`. This module knows nothing of
models: `build.py` trains on its posts.
"""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from typing import Any

from synthpost_dagster.files.yaml_files import read_mapping
from synthpost_dagster.judging.criteria import sentences
from synthpost_dagster.tasks.ids import short_hash
from synthpost_dagster.tasks.task import Brief

FAVOURITE = 0.3
"""How often a writer takes the favourite entry of a list instead of any."""

_SLOT = re.compile(r"\{([A-Za-z_]+)\}")


@cache
def phrases() -> dict[str, Any]:
    """The grammar's lists by name."""
    return read_mapping(Path(__file__).with_name("phrases.yaml"))


class PostWriter:
    """Writes one post for a brief.

    `obey` names the criteria to meet; `knows_profile` says whether the writer has read the company's whole profile,
    which holds the unique selling point.
    """

    def __init__(self, brief: Brief, length: str, obey: set[str], knows_profile: bool, rng: random.Random) -> None:
        self.brief, self.length, self.obey, self.knows_profile, self.rng = brief, length, obey, knows_profile, rng
        self.post_type, self.tone = brief.levels
        self._used: set[str] = set()
        self._facts = {
            "P": brief.item.name,
            "C": brief.value("company.name"),
            "D": brief.value("description"),
            "U": brief.value("company.unique_selling_point"),
        }

    def write(self) -> str:
        """The post: its sentences, then its hashtags if it obeys the criterion of platform use."""
        body = self._short() if self.length == "short" else self._longer(self.length)
        if self.tone == "Enthusiastic":
            body = [re.sub(r"(?<=\w)\.$", "!", part) if self.rng.random() < 0.6 else part for part in body]
        if "platform_use" in self.obey:
            body.append(self._hashtags())
        return " ".join(body)

    def _short(self) -> list[str]:
        parts = [self._opening(), self._core(), self._closing()]
        if "concise" in self.obey:
            return parts
        extra = [self._pick("filler") for _ in range(self.rng.randint(2, 3))]
        return [parts[0], parts[1], *extra, parts[2]]

    def _longer(self, length: str) -> list[str]:
        middle = [self._core(tails=length == "medium")]
        middle += [self._pick(name) for name in self._moves() if name in self.obey]
        if length == "long":
            middle += self._long_parts()
        body = [self._opening(), *middle, self._closing()]
        count = self._target(length)
        while len(sentences(" ".join(body), "en")) < count:
            body.insert(self.rng.randint(2, len(body) - 1), self._padding())
        while len(sentences(" ".join(body), "en")) > count and "concise" not in self.obey and len(body) > 2:
            body.pop(-2)
        return body

    def _long_parts(self) -> list[str]:
        parts = []
        if "benefits" in self.obey:
            parts.append(self._pick("benefit"))
        if "unique_selling_point" in self.obey:
            parts.append(self._usp())
        if self.post_type == "Storytelling" and "story" in self.obey:
            return self._tell(parts)
        if "game" in self.obey:
            return [*map(self._fill, self._choose("game_detail")), *parts]
        return parts

    def _target(self, length: str) -> int:
        """How many sentences the post should have: inside the band, or outside it where that is not obeyed."""
        if length == "medium":
            return self.rng.randint(4, 6) if "concise" in self.obey else self.rng.choice([2, 3, 8])
        return self.rng.randint(7, 9) if "concise" in self.obey else self.rng.choice([3, 4, 5])

    def _moves(self) -> list[str]:
        """The type's own criteria that are a sentence each."""
        moves = {
            "Educational": ["tips", "facts"],
            "Testimonial": ["review", "quotation"],
            "User-Generated Content": ["customer_experience"],
            "Value Proposition": ["difference", "problem_solution"],
            "Interactive": ["game"],
        }
        return moves.get(self.post_type, [])

    def _tell(self, parts: list[str]) -> list[str]:
        told = [self._pick("story"), self._pick("story_vivid"), self._pick("story_turn"), *parts]
        if "personal" in self.obey:
            told.append(self._pick("personal"))
        return [*told, self._pick("story_end")]

    def _opening(self) -> str:
        kind = self.post_type
        if kind == "Announcement" and "launch_or_update" in self.obey:
            return self._pick("hook_launch")
        if kind == "Question" and "product_question" in self.obey:
            return self._pick("hook_question")
        if "hook" in self.obey:
            return self._pick("hook")
        return self._pick("plain_open")

    def _core(self, tails: bool = True) -> str:
        """The sentence that says what the product is, with the short types' other parts as its tails."""
        core = self._pick("subject_named" if "consistent_branding" in self.obey else "subject_plain")
        if not tails:
            return core + "."
        for criterion, tail in (
            ("season", "season_tail"),
            ("concrete_feature", "feature_tail"),
            ("comparison", "comparison_tail"),
        ):
            if criterion in self.obey:
                core += self._pick(tail)
        if "benefits" in self.obey:
            core += self._pick("benefit_tail")
        if "unique_selling_point" in self.obey:
            core += self._pick("usp_tail" if self._says_usp() else "usp_tail_plain")
        return core + "."

    def _usp(self) -> str:
        return self._pick("usp" if self._says_usp() else "usp_plain")

    def _says_usp(self) -> bool:
        return self.knows_profile and self.rng.random() < 0.7

    def _closing(self) -> str:
        kind = self.post_type
        moves = {
            "Testimonial": "social_proof",
            "User-Generated Content": "customer_content",
            "Interactive": "participation",
        }
        own = moves.get(kind, "")
        if own in self.obey and (kind == "Interactive" or "call_to_action" not in self.obey):
            return self._pick(own)
        if "call_to_action" not in self.obey:
            return self._pick("plain_close")
        call = self._pick("cta")
        for criterion, tail in (
            ("offer", "offer_tail"),
            ("urgency", "urgency_tail"),
            ("exclusivity", "exclusive_tail"),
        ):
            if criterion in self.obey:
                call += self._pick(tail)
        if own in self.obey:
            call += ". " + self._pick(own).rstrip(".")
        return call + "."

    def _padding(self) -> str:
        if len(self.obey) > 4:
            return self._pick(self.rng.choice(["benefit", "difference"]))
        return self._pick("filler")

    def _hashtags(self) -> str:
        own = re.sub(r"\W", "", self.brief.value("company.name"))
        product = re.sub(r"\W", "", self.brief.item.name)
        tags = [own, product, self._choose("tag")]
        return " ".join(f"#{tag}" for tag in tags[: self.rng.randint(2, 3)])

    def _pick(self, name: str) -> str:
        return self._fill(self._choose(name))

    def _choose(self, name: str) -> Any:
        """An entry of the list that this post does not hold yet.

        Each post type and tone has a favourite, so that greedy posts differ.
        """
        entries = phrases()[name]
        if isinstance(entries, dict):
            entries = entries[self.tone]
        fresh = [entry for entry in entries if str(entry) not in self._used] or entries
        chosen = self.rng.choice(fresh)
        if name != "filler" and self.rng.random() < FAVOURITE:
            favourite = entries[int(short_hash(self.post_type, self.tone, name), 16) % len(entries)]
            chosen = favourite if favourite in fresh else chosen
        self._used.add(str(chosen))
        return chosen

    def _fill(self, text: str) -> str:
        """The text with every slot filled."""

        def slot(match: re.Match[str]) -> str:
            name = match.group(1)
            return self._facts[name] if name in self._facts else self._pick(name)

        filled = _SLOT.sub(slot, text)
        return filled[0].upper() + filled[1:] if text[0] == "{" else filled
