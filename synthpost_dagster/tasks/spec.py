"""The records of `task.yaml`. Reading a task folder is `tasks.loading`, its items are in `tasks.items`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from synthpost_dagster.schemas import RESERVED
from synthpost_dagster.tasks.checks import Check, LengthCheck, NamesCheck
from synthpost_dagster.tasks.limits import Quality
from synthpost_dagster.tasks.records import Identifier, Name, Record, Share, Text

ISO_639_1 = (
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el "
    "en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it "
    "iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt "
    "my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk "
    "sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi "
    "yo za zh zu "
)
"""Two-letter language codes. Three-letter codes are accepted unchecked."""
_LANGUAGE_TAG = re.compile(
    r"[a-z]{2,3}(-[a-z]{4})?(-([a-z]{2}|\d{3}))?(-([a-z\d]{5,8}|\d[a-z\d]{3}))*", re.IGNORECASE | re.ASCII
)


def _is_language(tag: str) -> str:
    primary = tag.split("-", maxsplit=1)[0].lower()
    if not _LANGUAGE_TAG.fullmatch(tag) or (len(primary) == 2 and primary not in ISO_639_1.split()):
        raise ValueError(f"{tag!r} is not a BCP 47 language tag; write one such as en, pt-BR or ja")
    return tag


LanguageTag = Annotated[str, AfterValidator(_is_language)]
EPOCHS = re.compile(r"^([1-9][0-9]?)-epoch$")
Role = Literal["teacher", "student", "judge"]
ROLES: tuple[Role, ...] = ("teacher", "student", "judge")
Word = tuple[Identifier, Name]
"""A noun as a column and in prompts (`product`), and its plural (`products`)."""


class Words(Record):
    """What people of the trade call an output, an item and a group, in the singular and the plural."""

    output: Word = Field(default=("output", "outputs"), description="what the model writes")
    item: Word = Field(default=("item", "items"), description="what an output is about")
    group: Word = Field(default=("group", "groups"), description="what several items belong to")


class ItemField(Record):
    """A field of the items or groups."""

    type: Literal["name", "text", "number"] = Field(
        default="text", description="name: one short line that identifies the item or group; text; number"
    )
    show: tuple[Role, ...] = Field(default=ROLES, description="the prompts that may use it")


Entries = str | tuple[dict[str, Any], ...]
Fields = dict[Identifier, ItemField]


class Groups(Record):
    """What several items belong to, such as companies with their products."""

    entries: Entries = Field(alias="from", description="file (.jsonl, .csv, .yaml) in the task folder, or a list")
    fields: Fields = Field(min_length=1, description="fields of a group; one has the type name")

    @field_validator("fields")
    @classmethod
    def _has_name(cls, value: Fields) -> Fields:
        if [field.type for field in value.values()].count("name") != 1:
            raise ValueError("exactly one field must have `type: name`, which items refer to")
        return value


class Items(Record):
    """What the outputs are about. An item is identified by its field of type name, or else by its `id`.

    With groups, each item names its group in a column with the task's word for a group.
    """

    entries: Entries = Field(alias="from", description="file (.jsonl, .csv, .yaml) in the task folder, or a list")
    fields: Fields = Field(min_length=1, description="fields of an item, at most one of type name")
    groups: Groups | None = Field(default=None, description="what several items belong to")

    @field_validator("fields")
    @classmethod
    def _one_name(cls, value: Fields) -> Fields:
        if [field.type for field in value.values()].count("name") > 1:
            raise ValueError("at most one field may have `type: name`")
        return value


class Level(Record):
    """One level of a factor."""

    length: Identifier | None = Field(default=None, description="name of one of `lengths`")
    criteria: tuple[Identifier, ...] = Field(default=(), description="names of `criteria`, besides those in `always`")


class Factor(Record):
    """Something that varies between prompts. Its levels are crossed with each item, or read from the item."""

    source: Literal["item"] | None = Field(
        default=None, alias="from", description="item: the level stands in the item's column of the factor's name"
    )
    levels: dict[Name, Level] = Field(min_length=1, description="levels, each with its length and criteria")

    @field_validator("levels", mode="before")
    @classmethod
    def _from_names(cls, value: Any) -> Any:
        """Levels may be a list of names; a level without keys may be empty."""
        if isinstance(value, list):
            if twice := [str(name) for name, count in Counter(map(str, value)).items() if count > 1]:
                raise ValueError(f"{twice[0]} is named twice")
            return {str(name): {} for name in value}
        return {name: {} if level is None else level for name, level in value.items()} if _is_map(value) else value


class Length(Record):
    """A range of sentences, words, characters or lines."""

    unit: Literal["sentences", "words", "characters", "lines"] = Field(description="what is counted")
    min: int = Field(default=0, ge=0, description="fewest")
    max: int | None = Field(default=None, ge=1, description="most; null for no upper limit")

    @model_validator(mode="after")
    def _ordered(self) -> Length:
        if self.max is not None and self.max < self.min:
            raise ValueError("max is below min")
        return self

    def text(self, name: str) -> str:
        """The range in words, after its name unless that is `default`."""
        start = "" if name == "default" else f"{name}, "
        if self.max is None:
            return f"{start}{self.min} {self.unit} or more"
        return f"{start}{self.min} to {self.max} {self.unit}" if self.min else f"{start}at most {self.max} {self.unit}"

    def holds(self, count: int) -> bool:
        """Whether a count is within the range."""
        return self.min <= count <= (count if self.max is None else self.max)


class Leak(Record):
    """What of a holdout item must not occur in training rows."""

    names_of: tuple[Identifier, ...] = Field(default=(), description="fields whose values are names that leak")
    fields: tuple[Identifier, ...] = Field(default=(), description="fields whose runs of words leak")
    words: int = Field(default=8, ge=3, description="words in sequence that count as leakage")


class Holdout(Record):
    """Which items or levels are kept for the evaluation prompts alone."""

    by: Identifier = Field(description="item, group, a factor, or split for the items' own column `split`")
    share: Share | None = Field(default=None, description="share of items or groups, chosen by a hash of their names")
    levels: tuple[Name, ...] = Field(default=(), description="levels of the factor that are kept for evaluation")
    leak: Leak = Field(default=Leak(), description="what of a holdout item must not occur in training rows")

    @model_validator(mode="after")
    def _complete(self) -> Holdout:
        if self.by in ("item", "group") and not 0 < (self.share or 0) < 1:
            raise ValueError(f"by: {self.by} needs a share between 0 and 1")
        if self.by not in ("item", "group", "split") and not self.levels:
            raise ValueError(f"by: {self.by} needs the `levels` that are kept for evaluation")
        return self


class Criterion(Record):
    """One requirement of a good output, in words for models and people and as a check on the text."""

    text: Text = Field(description="the requirement, as the teacher's and the judge's prompt state it")
    check: Check = Field(description="what the rubric looks for in an output")


class Sweep(Record):
    """The default levels of the sweep; a profile may name others."""

    data_sizes: tuple[int, ...] = Field(min_length=1, description="rows of training data, ascending")
    steps: tuple[int | str, ...] = Field(
        min_length=1, description="optimizer steps, or `<k>-epoch` for k passes over the subset"
    )

    @field_validator("data_sizes")
    @classmethod
    def _sizes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 1 for size in value) or list(value) != sorted(set(value)):
            raise ValueError("sizes must be positive, different and ascending")
        return value

    @field_validator("steps")
    @classmethod
    def _steps(cls, value: tuple[int | str, ...]) -> tuple[int | str, ...]:
        for steps in value:
            if isinstance(steps, bool) or (isinstance(steps, int) and steps < 1):
                raise ValueError(f"{steps!r} is not a positive number of steps")
            if isinstance(steps, str) and not EPOCHS.match(steps):
                raise ValueError(f"{steps!r} is neither a number of steps nor `<k>-epoch`")
        if len({str(steps) for steps in value}) != len(value):
            raise ValueError("a length of training is named twice")
        return value


class Evaluation(Record):
    """The evaluation prompts."""

    prompts: int = Field(ge=1, description="prompts on holdout items that every contestant answers")


class TaskSpec(Record):
    """`task.yaml`."""

    format: Literal[2] = Field(description="version of the format: 2")
    name: Identifier = Field(description="name of the task; part of every prompt's id")
    description: Text = Field(description="one sentence for people")
    system_prompt: Text | None = Field(
        default=None, description="system prompt, used if training.system_prompt of the profile is true"
    )
    language: LanguageTag = Field(
        default="en", description="BCP 47 tag of the outputs' language; decides how sentences end"
    )
    words: Words = Field(default=Words(), description="words of the trade")
    items: Items = Field(description="what the outputs are about")
    factors: dict[Identifier, Factor] = Field(default={}, description="what varies between prompts besides the item")
    exclude: tuple[dict[Identifier, Name | tuple[Name, ...]], ...] = Field(
        default=(), description="combinations without prompts: factor, item or group → its levels or names"
    )
    strata: tuple[Identifier, ...] | None = Field(
        default=None, description="factors over which subsets and evaluation are balanced; null for all"
    )
    samples_per_prompt: int = Field(default=1, ge=1, le=1_000, description="training rows for each combination")
    lengths: dict[Identifier, Length] = Field(
        default={}, description="ranges by name; `default` applies where no level names one"
    )
    holdout: Holdout = Field(description="which items or levels are kept for the evaluation")
    criteria: dict[Identifier, Criterion] = Field(default={}, description="requirements by name")
    always: tuple[Identifier, ...] = Field(default=(), description="criteria of every output")
    sweep: Sweep = Field(description="default levels of data size and training length")
    evaluation: Evaluation = Field(description="the evaluation prompts")
    quality: Quality = Field(description="limits of the gates, and rules for rejecting rows")

    @model_validator(mode="after")
    def _consistent(self) -> TaskSpec:
        problems = [*_name_problems(self), *_reference_problems(self), *_criteria_problems(self)]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def group_column(self) -> str:
        """The column of the group's name; empty without groups."""
        return self.words.group[0] if self.items.groups else ""

    @property
    def strata_factors(self) -> tuple[str, ...]:
        """The factors over which subsets and evaluation are balanced, in the order of `factors`."""
        return tuple(name for name in self.factors if self.strata is None or name in self.strata)

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The columns that identify the prompt of an output, in every table from the prompts on."""
        length = ("length",) if self.lengths else ()
        group = (self.group_column,) if self.group_column else ()
        return ("prompt_id", *group, self.words.item[0], *self.factors, *length)

    @property
    def breakdowns(self) -> tuple[str, ...]:
        """The columns by which results are broken down: factors, length, group."""
        group = (self.group_column,) if self.group_column else ()
        return (*self.factors, *(("length",) if self.lengths else ()), *group)


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)


def _unknown(what: str, names: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    allowed = sorted(known)
    for name in names:
        if name not in allowed:
            yield f"{what}: {name} is none of {', '.join(allowed) or 'them, because none is declared'}"


def _name_problems(spec: TaskSpec) -> Iterator[str]:
    """Names that are used twice, or that tables use already."""
    nouns = [spec.words.item[0], *([spec.words.group[0]] if spec.items.groups else [])]
    for name, times in Counter([*nouns, *spec.factors]).items():
        if times > 1:
            yield f"words, factors: {name} is used twice; rename one"
        if name in RESERVED:
            yield f"words, factors: {name} is a column of the tables or a name in prompts; choose another word"
    columns = [name for name, factor in spec.factors.items() if factor.source]
    columns += [spec.group_column, *(["split"] if spec.holdout.by == "split" else [])]
    for name in spec.items.fields:
        if name in columns:
            yield f"items.fields: {name} is a column of the items already; rename the field"


def _reference_problems(spec: TaskSpec) -> Iterator[str]:
    """References to factors, lengths and fields that do not exist."""
    yield from _unknown("strata", spec.strata or (), spec.factors)
    yield from _unknown("holdout.leak.names_of", spec.holdout.leak.names_of, spec.items.fields)
    yield from _unknown("holdout.leak.fields", spec.holdout.leak.fields, spec.items.fields)
    by = spec.holdout.by
    if by not in ("item", "split", *(["group"] if spec.items.groups else [])):
        yield from _unknown("holdout.by", [by], ["item", "group", "split", *spec.factors])
        if by in spec.factors:
            yield from _unknown("holdout.levels", spec.holdout.levels, spec.factors[by].levels)
    nouns = [spec.words.item[0], spec.words.group[0]]
    for place, excluded in enumerate(spec.exclude):
        yield from _unknown(f"exclude[{place}]", excluded, [*spec.factors, *nouns])
        for name, levels in excluded.items():
            if name in spec.factors:
                chosen = [levels] if isinstance(levels, str) else levels
                yield from _unknown(f"exclude[{place}].{name}", chosen, spec.factors[name].levels)
    for factor, name, level in _levels(spec):
        if level.length is not None:
            yield from _unknown(f"factors.{factor}.levels.{name}.length", [level.length], spec.lengths)
    with_length = list(dict.fromkeys(factor for factor, _, level in _levels(spec) if level.length is not None))
    if len(with_length) > 1:
        yield f"factors: the levels of {' and '.join(with_length)} have lengths; only one factor may have them"
    is_complete = all(level.length for factor, _, level in _levels(spec) if factor in with_length)
    if spec.lengths and "default" not in spec.lengths and not (with_length and is_complete):
        yield "lengths: some prompts have no length; name one `default`, or give each level of a factor its length"


def _criteria_problems(spec: TaskSpec) -> Iterator[str]:
    """Criteria that do not exist or occur twice, and checks of what does not exist."""
    yield from _unknown("always", spec.always, spec.criteria)
    sources = {"always": spec.always}
    for factor, name, level in _levels(spec):
        yield from _unknown(f"factors.{factor}.levels.{name}.criteria", level.criteria, spec.criteria)
        sources[f"factors.{factor}.levels.{name}"] = (*spec.always, *level.criteria)
    for source, names in sources.items():
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            yield f"{source}: criterion {twice[0]} occurs twice, with those in `always`; remove one"
    groups = spec.items.groups.fields if spec.items.groups else {}
    known = [*spec.items.fields, *(f"{spec.words.group[0]}.{name}" for name in groups)]
    for name, criterion in spec.criteria.items():
        if isinstance(criterion.check, NamesCheck):
            yield from _unknown(f"criteria.{name}.check.of", criterion.check.of, known)
        if isinstance(criterion.check, LengthCheck) and not spec.lengths:
            yield f"criteria.{name}: the check length needs `lengths`"


def _levels(spec: TaskSpec) -> Iterator[tuple[str, str, Level]]:
    for factor, found in spec.factors.items():
        for name, level in found.levels.items():
            yield factor, name, level
