"""A loaded task: its file, its items and its prompt templates; and the briefs that follow from them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from synthpost_dagster.tasks.checks import Check
from synthpost_dagster.tasks.ids import short_hash
from synthpost_dagster.tasks.items import BOTH, Item
from synthpost_dagster.tasks.spec import Length, Level, TaskSpec
from synthpost_dagster.tasks.templates import PromptTemplate, compiled
from synthpost_dagster.text.normalize import plain

Stratum = tuple[str, ...]
"""A level of each factor in `strata`."""


class Brief(NamedTuple):
    """What one output is about: an item, a level of each factor, and the number of the sample."""

    item: Item
    levels: tuple[str, ...]
    sample: int = 0

    def value(self, field: str) -> str:
        """The value of an item's field, or of `group.field`, as text."""
        noun, _, name = field.rpartition(".")
        values = self.item.group.values if noun and self.item.group else self.item.values
        return str(values[name])


class NamedCriterion(NamedTuple):
    """A criterion with its name."""

    id: str
    text: str
    check: Check


@dataclass(frozen=True)
class Task:
    """A task folder, read and checked; `sources` holds the templates' text by role."""

    folder: Path
    spec: TaskSpec
    items: tuple[Item, ...]
    sources: dict[str, str]

    def template(self, role: str) -> PromptTemplate:
        """The compiled template of `teacher`, `student` or `judge`. Raises SpecError naming file and line."""
        return compiled(self.sources[role], str(self.folder / "prompts" / f"{role}.j2"))

    @property
    def wording_fingerprint(self) -> str:
        """Hash of everything that shapes the text of prompts besides the items."""
        spec = self.spec
        wording = {
            "teacher": self.sources["teacher"],
            "student": self.sources["student"],
            "words": spec.words.model_dump(),
            "fields": spec.items.model_dump(exclude={"entries": True, "groups": {"entries"}}),
            "factors": [(name, list(factor.levels.items())) for name, factor in spec.factors.items()],
            "lengths": {name: length.text(name) for name, length in spec.lengths.items()},
            "criteria": {name: criterion.text for name, criterion in spec.criteria.items()},
            "always": spec.always,
        }
        text = json.dumps(wording, sort_keys=True, default=lambda value: value.model_dump(mode="json"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def criterion_ids(self) -> list[str]:
        """Every criterion that an output may have to meet, those of all outputs first."""
        used = [
            name for factor in self.spec.factors.values() for one in factor.levels.values() for name in one.criteria
        ]
        return list(dict.fromkeys([*self.spec.always, *used]))

    def briefs(self, split: str) -> Iterator[Brief]:
        """The briefs of `train` or `holdout`: each item with each combination of levels that is not excluded."""
        samples = self.spec.samples_per_prompt if split == "train" else 1
        for item in self.items:
            if item.split in (split, BOTH):
                for levels in itertools.product(*self._levels_of(item)):
                    if self._split_of(item, levels) == split and not self._is_excluded(item, levels):
                        yield from (Brief(item, levels, sample) for sample in range(samples))

    def _levels_of(self, item: Item) -> list[tuple[str, ...]]:
        return [
            (item.levels[name],) if factor.source else tuple(factor.levels)
            for name, factor in self.spec.factors.items()
        ]

    def _split_of(self, item: Item, levels: tuple[str, ...]) -> str:
        if item.split != BOTH:
            return item.split
        holdout = self.spec.holdout
        return "holdout" if levels[list(self.spec.factors).index(holdout.by)] in holdout.levels else "train"

    def _is_excluded(self, item: Item, levels: tuple[str, ...]) -> bool:
        if not self.spec.exclude:
            return False
        own = dict(zip(self.spec.factors, levels, strict=True)) | self.names_of(item)
        return any(
            all(
                own.get(name) in ((wanted,) if isinstance(wanted, str) else wanted) for name, wanted in excluded.items()
            )
            for excluded in self.spec.exclude
        )

    def names_of(self, item: Item) -> dict[str, str]:
        """The item's name and its group's, by column."""
        group = {self.spec.group_column: item.group.name} if item.group else {}
        return {**group, self.spec.words.item[0]: item.name}

    def about(self, item: Item) -> str:
        """The first text field of an item, for people; empty without one."""
        named = (name for name, field in self.spec.items.fields.items() if field.type == "text")
        return str(item.values.get(next(named, ""), ""))

    def levels_of(self, brief: Brief) -> list[Level]:
        """The records of a brief's levels, in the order of the factors."""
        return [factor.levels[name] for factor, name in zip(self.spec.factors.values(), brief.levels, strict=True)]

    def length_name(self, brief: Brief) -> str:
        """The name of a brief's length; empty without lengths."""
        named = (level.length for level in self.levels_of(brief) if level.length)
        return next(named, "default" if self.spec.lengths else "")

    def length_of(self, brief: Brief) -> Length | None:
        """The length of a brief; None without lengths."""
        return self.spec.lengths.get(self.length_name(brief))

    def always(self) -> list[NamedCriterion]:
        """The criteria of every output."""
        return [self._criterion(name) for name in self.spec.always]

    def level_criteria(self, brief: Brief) -> list[NamedCriterion]:
        """The criteria that a brief's levels add."""
        names = dict.fromkeys(name for level in self.levels_of(brief) for name in level.criteria)
        return [self._criterion(name) for name in names]

    def criteria_of(self, brief: Brief) -> list[NamedCriterion]:
        """All criteria of a brief, those of every output first."""
        return [*self.always(), *self.level_criteria(brief)]

    def _criterion(self, name: str) -> NamedCriterion:
        return NamedCriterion(name, self.spec.criteria[name].text, self.spec.criteria[name].check)

    def stratum_of(self, brief: Brief) -> Stratum:
        """The brief's levels of the factors in `strata`."""
        chosen = self.spec.strata_factors
        return tuple(level for name, level in zip(self.spec.factors, brief.levels, strict=True) if name in chosen)

    @cached_property
    def _capacities(self) -> dict[str, dict[Stratum, int]]:
        return {split: dict(Counter(map(self.stratum_of, self.briefs(split)))) for split in ("train", "holdout")}

    def capacities(self, split: str) -> Mapping[Stratum, int]:
        """Stratum → its number of briefs. The strata are in the order in which they get the remainder of a division: by
        a hash, so that no level is favoured.
        """
        found = self._capacities[split]
        return {one: found[one] for one in sorted(found, key=lambda stratum: short_hash(self.spec.name, *stratum))}

    @property
    def strata(self) -> list[Stratum]:
        """The strata of the training prompts, in the task's order."""
        orders = [list(self.spec.factors[name].levels) for name in self.spec.strata_factors]
        return sorted(
            self._capacities["train"],
            key=lambda stratum: [order.index(level) for order, level in zip(orders, stratum, strict=True)],
        )

    @property
    def brief_columns(self) -> tuple[str, ...]:
        """The columns that name a brief: group, item, factors."""
        return tuple(name for name in self.spec.prompt_columns if name not in ("prompt_id", "length"))

    @cached_property
    def briefs_by_names(self) -> Mapping[tuple[str, ...], Brief]:
        """Names of group, item and levels in normal form → brief, of both splits."""
        briefs = (brief for split in ("train", "holdout") for brief in self.briefs(split) if not brief.sample)
        return {
            tuple(plain(name) for name in (*self.names_of(brief.item).values(), *brief.levels)): brief
            for brief in briefs
        }

    @property
    def training_prompts(self) -> int:
        """Number of training prompts."""
        return sum(self._capacities["train"].values())

    @property
    def evaluation_prompts(self) -> int:
        """Number of prompts on holdout items or levels."""
        return sum(self._capacities["holdout"].values())
