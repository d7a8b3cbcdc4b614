"""What a task is: the records that `task.yaml` and `catalog.yaml` are read into.

Only the shape of a task lives here; reading the files is `tasks.loading`, evaluating a check on a post is
`judging.criteria`.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Literal

import regex
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from synthpost_dagster.text.normalize import folded

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2_000)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80, pattern=r"^[^|{}\n]+$")]

ISO_639_1 = (
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el "
    "en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it "
    "iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt "
    "my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk "
    "sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi "
    "yo za zh zu "
)
"""The languages of two letters; those of three are not listed here."""
_LANGUAGE_TAG = re.compile(
    r"[a-z]{2,3}(-[a-z]{4})?(-([a-z]{2}|\d{3}))?(-([a-z\d]{5,8}|\d[a-z\d]{3}))*", re.IGNORECASE | re.ASCII
)


def _is_language(tag: str) -> str:
    primary = tag.split("-", maxsplit=1)[0].lower()
    if not _LANGUAGE_TAG.fullmatch(tag) or (len(primary) == 2 and primary not in ISO_639_1.split()):
        raise ValueError(f"{tag!r} is no BCP 47 language tag; write one such as en, pt-BR or ja")
    return tag


LanguageTag = Annotated[str, AfterValidator(_is_language)]
Share = Annotated[float, Field(ge=0, le=1)]

EPOCHS = re.compile(r"^([1-9][0-9]?)-epoch$")


class Record(BaseModel):
    """Base of all records read from YAML: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SentencesCheck(Record):
    """The post has as many sentences as its length asks for."""

    kind: Literal["sentences"]


class OpeningCheck(Record):
    """The first sentence asks, exclaims, or has at most `max_words` words."""

    kind: Literal["opening"]
    max_words: int = Field(ge=1)


class PhrasesCheck(Record):
    """At least one of the phrases stands in the post as whole words, in any case."""

    kind: Literal["phrases"]
    any: tuple[Text, ...] = Field(min_length=1)


class PatternCheck(Record):
    """The regular expression is found in the post, in any case."""

    kind: Literal["pattern"]
    regex: str = Field(max_length=4_000)

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            regex.compile(value, regex.IGNORECASE)
        except (regex.error, OverflowError, RecursionError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


class HashtagCheck(Record):
    """The post carries between `min` and `max` hashtags."""

    kind: Literal["hashtag"]
    min: int = Field(ge=0)
    max: int = Field(ge=1)


class QuestionCheck(Record):
    """At least `min` sentences end with a question mark."""

    kind: Literal["question"]
    min: int = Field(ge=1)


class NumberCheck(Record):
    """The post holds at least `min` numbers."""

    kind: Literal["number"]
    min: int = Field(ge=1)


class NamesCheck(Record):
    """The post names the company, the product, or both."""

    kind: Literal["names"]
    of: tuple[Literal["company", "product"], ...] = Field(min_length=1)


class QuoteCheck(Record):
    """The post quotes at least `min_words` words between quotation marks."""

    kind: Literal["quote"]
    min_words: int = Field(ge=1)


class JudgeOnlyCheck(Record):
    """Only a reader can tell; the rubric passes over it."""

    kind: Literal["judge-only"]


Check = Annotated[
    SentencesCheck
    | OpeningCheck
    | PhrasesCheck
    | PatternCheck
    | HashtagCheck
    | QuestionCheck
    | NumberCheck
    | NamesCheck
    | QuoteCheck
    | JudgeOnlyCheck,
    Field(discriminator="kind"),
]


class Criterion(Record):
    """One thing a good post does, in words for people and models and as a check on the text."""

    id: Identifier
    text: Text
    check: Check


class Length(Record):
    """A band of sentences; `max_sentences` None means no upper end."""

    name: Identifier
    min_sentences: int = Field(ge=1)
    max_sentences: int | None

    @property
    def text(self) -> str:
        """The band in words, as the prompts say it."""
        if self.max_sentences is None:
            return f"{self.name}, {self.min_sentences} sentences or more"
        return f"{self.name}, {self.min_sentences} to {self.max_sentences} sentences"

    @model_validator(mode="after")
    def _ordered(self) -> Length:
        if self.max_sentences is not None and self.max_sentences < self.min_sentences:
            raise ValueError("max_sentences is below min_sentences")
        return self


class PostType(Record):
    """A kind of post, its length and what it must do besides the universal criteria."""

    name: Name
    length: Identifier
    criteria: tuple[Criterion, ...] = Field(min_length=1)


class Sweep(Record):
    """Every level of the two factors of the study: rows of data, and length of training."""

    data_sizes: tuple[int, ...] = Field(min_length=1)
    steps: tuple[int | str, ...] = Field(min_length=1)

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
    """How many prompts on holdout products every contestant answers."""

    prompts: int = Field(ge=1)


class DiversityLimits(Record):
    """Limits for variety, each for the figure at the rows of the smallest data size; null: reported only."""

    min_distinct_1: Share | None = None
    min_distinct_2: Share | None = None
    min_distinct_3: Share | None = None
    max_compression_ratio: float | None = Field(default=None, gt=0)
    max_self_bleu: float | None = Field(default=None, ge=0, le=100)
    min_vendi: Share | None = Field(default=None, description="where the profile names an embedder, as the next")
    max_semantic_near_share: Share | None = None


class Quality(Record):
    """When a reply is refused, when a table blocks what is downstream, and when it is warned of.

    What a task leaves out has the default given here.
    """

    max_rejected_share: Share = Field(description="of prompts that stay rejected; above it, block")
    band_retries: int = Field(default=1, ge=0, le=9, description="times a reply of the wrong length is asked again")
    max_out_of_band_share: Share = Field(default=0.7, description="of kept rows of the wrong length; above it, warn")
    near_duplicate_jaccard: float = Field(default=0.7, ge=0.65, le=1, description="from here on, near-duplicates")
    max_near_duplicate_share: Share = Field(default=0.05, description="above it, block")
    max_opening_share: Share = Field(default=0.02, description="of rows with one opening, where more than 3; warn")
    max_cleaned_share: Share = Field(default=0.05, description="of replies with quotes or a preamble; above it, warn")
    leaked_words: int = Field(default=8, ge=3, description="so long a run of a holdout product's text is a leak; block")
    phone_region: str = Field(
        default="US", pattern="^[A-Z]{2}$", description="whose phone numbers are known without a country's code"
    )
    max_perplexity_ratio: float = Field(
        default=1.15, ge=1, description="of general text, tuned by base; above it, warn of forgetting"
    )
    diversity: DiversityLimits = DiversityLimits()


class TaskSpec(Record):
    """`task.yaml`."""

    name: Identifier
    description: Text
    system_prompt: Text
    language: LanguageTag = Field(default="en", description="of the posts; sentences are counted by its rules")
    tones: tuple[Name, ...] = Field(min_length=1)
    lengths: tuple[Length, ...] = Field(min_length=1)
    universal_criteria: tuple[Criterion, ...] = Field(min_length=1)
    post_types: tuple[PostType, ...] = Field(min_length=1)
    sweep: Sweep
    evaluation: Evaluation
    quality: Quality

    @model_validator(mode="after")
    def _consistent(self) -> TaskSpec:
        lengths = {length.name for length in self.lengths}
        problems = []
        for what, names in (
            ("tones", [folded(tone) for tone in self.tones]),
            ("lengths", [length.name for length in self.lengths]),
            ("post_types", [folded(post_type.name) for post_type in self.post_types]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                problems.append(f"{what}: {', '.join(twice)} is named twice")
        for post_type in self.post_types:
            if post_type.length not in lengths:
                problems.append(
                    f"post_types: {post_type.name} has the length {post_type.length!r}, "
                    f"which is none of {', '.join(sorted(lengths))}"
                )
            ids = [criterion.id for criterion in self.criteria_of(post_type)]
            twice = sorted({name for name in ids if ids.count(name) > 1})
            if twice:
                problems.append(f"post_types: {post_type.name} has the criterion {twice[0]!r} twice")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def criteria_of(self, post_type: PostType) -> tuple[Criterion, ...]:
        """The universal criteria, then the type's own."""
        return self.universal_criteria + post_type.criteria

    def length_of(self, post_type: PostType) -> Length:
        """The band of sentences of a post type."""
        return next(length for length in self.lengths if length.name == post_type.length)

    def post_type(self, name: str) -> PostType:
        """The post type of that name."""
        return next(post_type for post_type in self.post_types if post_type.name == name)


class Product(Record):
    """One product, in one line."""

    name: Name
    description: Text


class Products(Record):
    """Products seen in training, and those kept for evaluation."""

    train: tuple[Product, ...] = Field(min_length=1)
    holdout: tuple[Product, ...] = Field(min_length=1)


class Company(Record):
    """A company's profile. Only `short_description` is shown to the student."""

    name: Name
    industry: Text
    mission: Text
    unique_selling_point: Text
    target_market: Text
    offering: Text
    size: Text
    history: Text
    audience: Text
    short_description: Text
    products: Products


class Catalog(Record):
    """`catalog.yaml`. No name of a company or product may occur twice, whatever its case."""

    companies: tuple[Company, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> Catalog:
        seen: dict[str, str] = {}
        problems = []
        for company in self.companies:
            for split in ("train", "holdout"):
                for product in getattr(company.products, split):
                    key, here = folded(product.name), f"{company.name}.products.{split}"
                    if key in seen:
                        problems.append(
                            f"product {product.name!r} is named twice, in {seen[key]} and in {here}: rename one"
                        )
                    seen.setdefault(key, here)
        names = [folded(company.name) for company in self.companies]
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        problems += [f"company {name!r} is named twice: rename one" for name in twice]
        if problems:
            raise ValueError("\n".join(problems))
        return self
