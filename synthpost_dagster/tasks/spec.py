"""The records of `task.yaml` and `catalog.yaml`.

Reading the files is `tasks.loading`, evaluating a check on a post is `judging.criteria`.
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
Share = Annotated[float, Field(ge=0, le=1)]

EPOCHS = re.compile(r"^([1-9][0-9]?)-epoch$")


class Record(BaseModel):
    """Base of all records read from YAML: immutable; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SentencesCheck(Record):
    """The number of sentences is within the post type's length."""

    kind: Literal["sentences"] = Field(description="kind of check")


class OpeningCheck(Record):
    """The first sentence is a question, an exclamation or at most `max_words` long."""

    kind: Literal["opening"] = Field(description="kind of check")
    max_words: int = Field(ge=1, description="words of a first sentence that is neither question nor exclamation")


class PhrasesCheck(Record):
    """At least one of the phrases occurs as whole words, in any case."""

    kind: Literal["phrases"] = Field(description="kind of check")
    any: tuple[Text, ...] = Field(min_length=1, description="phrases, one of which is enough")


class PatternCheck(Record):
    """The regular expression matches anywhere in the post, in any case."""

    kind: Literal["pattern"] = Field(description="kind of check")
    regex: str = Field(max_length=4_000, description="regular expression")

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

    kind: Literal["hashtag"] = Field(description="kind of check")
    min: int = Field(ge=0, description="fewest hashtags")
    max: int = Field(ge=1, description="most hashtags")


class QuestionCheck(Record):
    """At least `min` sentences end with a question mark."""

    kind: Literal["question"] = Field(description="kind of check")
    min: int = Field(ge=1, description="fewest questions")


class NumberCheck(Record):
    """The post holds at least `min` numbers."""

    kind: Literal["number"] = Field(description="kind of check")
    min: int = Field(ge=1, description="fewest numbers")


class NamesCheck(Record):
    """The post names the company, the product, or both."""

    kind: Literal["names"] = Field(description="kind of check")
    of: tuple[Literal["company", "product"], ...] = Field(min_length=1, description="names that must all occur")


class QuoteCheck(Record):
    """The post quotes at least `min_words` words between quotation marks."""

    kind: Literal["quote"] = Field(description="kind of check")
    min_words: int = Field(ge=1, description="fewest words of the quotation")


class JudgeOnlyCheck(Record):
    """Only a judge can decide; the rubric skips the criterion."""

    kind: Literal["judge-only"] = Field(description="kind of check")


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
    """One requirement of a good post, in words for models and people and as a check on the text."""

    id: Identifier = Field(description="name of the criterion in tables")
    text: Text = Field(description="the requirement, as the teacher's and the judge's prompt state it")
    check: Check = Field(description="what the rubric looks for in a post")


class Length(Record):
    """A range of sentences."""

    name: Identifier = Field(description="name that post types refer to")
    min_sentences: int = Field(ge=1, description="fewest sentences")
    max_sentences: int | None = Field(description="most sentences; null for no upper limit")

    @property
    def text(self) -> str:
        """The range in words, as the prompts state it."""
        if self.max_sentences is None:
            return f"{self.name}, {self.min_sentences} sentences or more"
        return f"{self.name}, {self.min_sentences} to {self.max_sentences} sentences"

    @model_validator(mode="after")
    def _ordered(self) -> Length:
        if self.max_sentences is not None and self.max_sentences < self.min_sentences:
            raise ValueError("max_sentences is below min_sentences")
        return self


class PostType(Record):
    """A kind of post."""

    name: Name = Field(description="name in prompts and tables")
    length: Identifier = Field(description="name of one of `lengths`")
    criteria: tuple[Criterion, ...] = Field(min_length=1, description="requirements besides the universal criteria")


class Sweep(Record):
    """All levels of the two factors of the study; a profile selects from them."""

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

    prompts: int = Field(ge=1, description="prompts on holdout products that every contestant answers")


class DiversityLimits(Record):
    """Limits of the diversity metrics at the rows of the smallest data size; outside them a warning, null: no limit."""

    min_distinct_1: Share | None = Field(default=None, description="different words per word")
    min_distinct_2: Share | None = Field(default=None, description="different word pairs per word pair")
    min_distinct_3: Share | None = Field(default=None, description="different word triples per word triple")
    max_compression_ratio: float | None = Field(
        default=None, gt=0, description="size of the posts over their zlib size"
    )
    max_self_bleu: float | None = Field(
        default=None, ge=0, le=100, description="mean BLEU of a post against the others"
    )
    min_vendi: Share | None = Field(default=None, description="Vendi score per post; needs the profile's `embedder`")
    max_semantic_near_share: Share | None = Field(
        default=None,
        description="share of posts with an earlier one at a cosine of 0.95; needs the profile's `embedder`",
    )


class Quality(Record):
    """Limits of the gates, and rules for rejecting rows."""

    max_rejected_share: Share = Field(description="share of prompts without a kept row; above it the table blocks")
    band_retries: int = Field(
        default=1, ge=0, le=9, description="times a reply with too few or too many sentences is requested again"
    )
    max_out_of_band_share: Share = Field(
        default=0.7, description="share of kept rows with too few or too many sentences; above it a warning"
    )
    near_duplicate_jaccard: float = Field(
        default=0.7, ge=0.65, le=1, description="posts are near-duplicates from this Jaccard index of word 3-grams on"
    )
    max_near_duplicate_share: Share = Field(
        default=0.05, description="share of near-duplicate posts; above it the table blocks"
    )
    max_opening_share: Share = Field(
        default=0.02,
        description="share of rows with the same first five words, if more than 3 rows; above it a warning",
    )
    max_cleaned_share: Share = Field(
        default=0.05, description="share of replies with outer quotes or a preamble; above it a warning"
    )
    leaked_words: int = Field(
        default=8, ge=3, description="words of a holdout product's text in a row, in sequence, that count as leakage"
    )
    phone_region: str = Field(
        default="US", pattern="^[A-Z]{2}$", description="country (ISO 3166) of phone numbers without a country code"
    )
    max_perplexity_ratio: float = Field(
        default=1.15,
        ge=1,
        description="perplexity of general text, tuned over base; above it a warning of forgetting",
    )
    diversity: DiversityLimits = Field(default=DiversityLimits(), description="limits of the diversity metrics")


class TaskSpec(Record):
    """`task.yaml`."""

    name: Identifier = Field(description="name of the task; part of every prompt's id")
    description: Text = Field(description="one sentence for people")
    system_prompt: Text = Field(description="system prompt, used if training.system_prompt of the profile is true")
    language: LanguageTag = Field(
        default="en", description="BCP 47 tag of the posts' language; decides how sentences end"
    )
    tones: tuple[Name, ...] = Field(min_length=1, description="tones of voice; each is combined with each post type")
    lengths: tuple[Length, ...] = Field(min_length=1, description="ranges of sentences")
    universal_criteria: tuple[Criterion, ...] = Field(min_length=1, description="requirements of every post type")
    post_types: tuple[PostType, ...] = Field(min_length=1, description="kinds of posts")
    sweep: Sweep = Field(description="levels of data size and training length")
    evaluation: Evaluation = Field(description="the evaluation prompts")
    quality: Quality = Field(description="limits of the gates, and rules for rejecting rows")

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
        """The length of a post type."""
        return next(length for length in self.lengths if length.name == post_type.length)

    def post_type(self, name: str) -> PostType:
        """The post type of that name."""
        return next(post_type for post_type in self.post_types if post_type.name == name)


class Product(Record):
    """One product."""

    name: Name = Field(description="name, unique in the catalog")
    description: Text = Field(description="the product in one line")


class Products(Record):
    """A company's products by split."""

    train: tuple[Product, ...] = Field(min_length=1, description="products of the training prompts")
    holdout: tuple[Product, ...] = Field(min_length=1, description="products of the evaluation prompts alone")


class Company(Record):
    """A company's profile. The student's prompt shows `short_description` alone."""

    name: Name = Field(description="name, unique in the catalog")
    industry: Text = Field(description="industry, as the prompts name it")
    mission: Text = Field(description="mission statement in one sentence")
    unique_selling_point: Text = Field(description="what only this company offers")
    target_market: Text = Field(description="the customers it sells to")
    offering: Text = Field(description="what it sells")
    size: Text = Field(description="size in words")
    history: Text = Field(description="history in one line")
    audience: Text = Field(description="readers of its posts")
    short_description: Text = Field(description="one line about the company, all that the student is shown")
    products: Products = Field(description="products by split")


class Catalog(Record):
    """`catalog.yaml`. No name of a company or product may occur twice, whatever its case."""

    companies: tuple[Company, ...] = Field(min_length=1, description="the companies")

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
