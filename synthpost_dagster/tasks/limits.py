"""The records of a task's limits: the gates, and the rules for rejecting rows."""

from pydantic import Field

from synthpost_dagster.tasks.records import Record, Share


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
    band_retries: int = Field(default=1, ge=0, le=9, description="times a reply of the wrong length is requested again")
    max_out_of_band_share: Share = Field(
        default=0.7, description="share of kept rows of the wrong length; above it a warning"
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
    phone_region: str = Field(
        default="US", pattern="^[A-Z]{2}$", description="country (ISO 3166) of phone numbers without a country code"
    )
    max_perplexity_ratio: float = Field(
        default=1.15,
        ge=1,
        description="perplexity of general text, tuned over base; above it a warning of forgetting",
    )
    diversity: DiversityLimits = Field(default=DiversityLimits(), description="limits of the diversity metrics")
