"""The records of the checks that criteria make on the text of an output; `judging.criteria` evaluates them."""

from typing import Annotated, Literal

import regex
from pydantic import Field, field_validator

from synthpost_dagster.tasks.records import Record, Text

FieldName = Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]{0,39}\.)?[a-z][a-z0-9_]{0,39}$")]


class LengthCheck(Record):
    """The output is within the length of its prompt."""

    kind: Literal["length"] = Field(description="kind of check")


class OpeningCheck(Record):
    """The first sentence is a question, an exclamation or at most `max_words` long."""

    kind: Literal["opening"] = Field(description="kind of check")
    max_words: int = Field(ge=1, description="words of a first sentence that is neither question nor exclamation")


class PhrasesCheck(Record):
    """At least one of the phrases occurs as whole words, in any case."""

    kind: Literal["phrases"] = Field(description="kind of check")
    any: tuple[Text, ...] = Field(min_length=1, description="phrases, one of which is enough")


class PatternCheck(Record):
    """The regular expression matches anywhere in the output, in any case."""

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
    """The output has between `min` and `max` hashtags."""

    kind: Literal["hashtag"] = Field(description="kind of check")
    min: int = Field(ge=0, description="fewest hashtags")
    max: int = Field(ge=1, description="most hashtags")


class QuestionCheck(Record):
    """At least `min` sentences end with a question mark."""

    kind: Literal["question"] = Field(description="kind of check")
    min: int = Field(ge=1, description="fewest questions")


class NumberCheck(Record):
    """The output has at least `min` numbers."""

    kind: Literal["number"] = Field(description="kind of check")
    min: int = Field(ge=1, description="fewest numbers")


class NamesCheck(Record):
    """The output contains the value of each of these fields, in any case."""

    kind: Literal["names"] = Field(description="kind of check")
    of: tuple[FieldName, ...] = Field(
        min_length=1, description="fields of the item, or `group.field` with the task's word for a group"
    )


class QuoteCheck(Record):
    """The output quotes at least `min_words` words between quotation marks."""

    kind: Literal["quote"] = Field(description="kind of check")
    min_words: int = Field(ge=1, description="fewest words of the quotation")


class JudgeCheck(Record):
    """Only a judge can decide; the rubric skips the criterion."""

    kind: Literal["judge"] = Field(description="kind of check")


Check = Annotated[
    LengthCheck
    | OpeningCheck
    | PhrasesCheck
    | PatternCheck
    | HashtagCheck
    | QuestionCheck
    | NumberCheck
    | NamesCheck
    | QuoteCheck
    | JudgeCheck,
    Field(discriminator="kind"),
]
