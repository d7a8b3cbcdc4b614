"""The schema of every table as a pandera model: types, ranges, allowed levels, unique ids, no nulls.

Checks that need the task or several rows are in `quality`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import pandera.pandas as pa
from pandera.typing.pandas import Series

if TYPE_CHECKING:
    import pandas as pd

ID = r"^[0-9a-f]{16}$"
SPLITS = ("train", "holdout")
CONTESTANTS = ("tuned", "base", "prompted")
"""tuned: the adapter, student prompt. base: the untuned model, student prompt. prompted: untuned, teacher prompt."""
OPPONENTS = ("base", "prompted")
CONTROL_SETS = ("control_a", "control_b")
"""Contestants of the control: the untuned model, student prompt, sampled under two seeds."""
COMPARISONS = ("resampled", "empty", "shuffled", "prompting")
"""Comparisons in `control_verdicts`. resampled: the untuned model against itself under another seed. empty: an empty
post against the baseline. shuffled: tuned posts of other prompts against the tuned post of the prompt; needs two
prompts. prompting: the untuned model with the teacher prompt against itself with the student prompt."""
FINISH_REASON = (
    r"stop|length|content_filter|invalid|refused|refusal|reasoning|unanswered|unknown:\w{1,12}|part:\w{1,12}"
)
"""stop: complete. length: cut off. content_filter: held back by the endpoint. invalid: violates the requested JSON
schema. refused: the endpoint refused the request; the text is its reason. refusal: the model declines; the text is its
reply. reasoning: cut off before the answer. unanswered: ended after the reasoning. unknown: an unknown finish reason of
that name, so the reply may be incomplete. part: the reply has a part of that kind, which is not text."""
STRIPPED = tuple(
    " and ".join(parts) for count in range(4) for parts in combinations(("fence", "preamble", "quotes"), count)
)
"""Parts that cleaning removed from a reply; empty for none."""
METRICS = (
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "compression_ratio",
    "opening_share",
    "self_bleu",
    "vendi",
    "semantic_near_share",
)
"""Metrics of diversity, defined in `rows.diversity` and `rows.embeddings`."""
OUTCOMES = ("win", "loss", "tie", "unscored")
"""Outcomes of a game or a pair, seen from the candidate."""


class Table(pa.DataFrameModel):
    """Base of all tables: exactly these columns, in any order, without conversion of types."""

    class Config:
        """Pandera's settings."""

        strict = True
        coerce = False


class Factors(Table):
    """A table with a row per prompt or output. `schema_of` adds the columns of the task's own words: group, item,
    factors and length.
    """

    prompt_id: Series[str] = pa.Field(str_matches=ID, description="Hash of task, group, item, levels and sample")


class Catalog(Table):
    """One row per item; its columns are the task's own: item, group, and their fields."""

    class Config(Table.Config):
        """The columns of fields differ from task to task."""

        strict = False

    split: Series[str] = pa.Field(isin=(*SPLITS, "both"), description="train, holdout, or both: divided by a factor")


class EvaluationPrompts(Factors):
    """One row per prompt that every contestant answers, on holdout items or levels."""

    prompt_id: Series[str] = pa.Field(unique=True, str_matches=ID)
    teacher_prompt: Series[str] = pa.Field(str_length={"min_value": 1}, description="With profile and criteria")
    student_prompt: Series[str] = pa.Field(str_length={"min_value": 1}, description="Without profile and criteria")


class Prompts(EvaluationPrompts):
    """One row per training prompt."""

    stratum_rank: Series[int] = pa.Field(ge=0, description="Place within its stratum, by a hash of the id")
    rank: Series[int] = pa.Field(ge=0, unique=True, description="Place in the stratified order of all prompts")


class SyntheticRows(Factors):
    """One row per reply of the teacher, kept or rejected with a reason."""

    rank: Series[int] = pa.Field(ge=0, description="Rank of the prompt")
    stratum_rank: Series[int] = pa.Field(ge=0)
    attempt: Series[int] = pa.Field(ge=0, description="0 for the first reply to a prompt")
    student_prompt: Series[str] = pa.Field(str_length={"min_value": 1})
    post: Series[str] = pa.Field(description="The reply, cleaned; empty where nothing could be kept")
    status: Series[str] = pa.Field(isin=("kept", "rejected"))
    reason: Series[str] = pa.Field(description="Reason of rejection, else empty")
    stripped: Series[str] = pa.Field(isin=STRIPPED, description="Parts removed from the reply, or empty")
    is_in_band: Series[bool] = pa.Field(description="Number of sentences is within the length")
    raw_reply: Series[str] = pa.Field(description="The raw reply")
    finish_reason: Series[str] = pa.Field(str_matches=rf"^(?:{FINISH_REASON})$")
    prompt_tokens: Series[int] = pa.Field(ge=0)
    completion_tokens: Series[int] = pa.Field(ge=0)
    teacher_model: Series[str] = pa.Field(str_length={"min_value": 1})
    reply_key: Series[str] = pa.Field(unique=True, str_matches=ID, description="Hash of all that shaped the reply")

    @pa.dataframe_check(name="reason_if_rejected")
    def reason_if_rejected(cls, rows: pd.DataFrame) -> pd.Series:  # noqa: N805 - pandera makes it a class method
        """A rejected row has a reason, a kept one a post."""
        return ((rows["status"] == "rejected") == (rows["reason"] != "")) & (
            (rows["status"] == "rejected") | (rows["post"].str.strip() != "")
        )


class DataSubsets(Factors):
    """One row per training conversation."""

    prompt_id: Series[str] = pa.Field(unique=True, str_matches=ID)
    rank: Series[int] = pa.Field(ge=0, unique=True)
    student_prompt: Series[str] = pa.Field(str_length={"min_value": 1}, description="The user's turn")
    post: Series[str] = pa.Field(str_length={"min_value": 1}, description="The assistant's turn")


class Diversity(Table):
    """One row per metric of diversity: of the artifact's posts, and over draws of `equal_rows` kept rows."""

    metric: Series[str] = pa.Field(isin=METRICS, unique=True)
    value: Series[float] = pa.Field(nullable=True, ge=0, description="Of all posts of the artifact; NaN: too few")
    rows: Series[int] = pa.Field(ge=0, description="Posts of the artifact")
    equal_rows: Series[int] = pa.Field(ge=1, description="Rows at which it is compared")
    draws_mean: Series[float] = pa.Field(nullable=True, ge=0, description="Over draws of equal_rows; NaN: no draws")
    draws_deviation: Series[float] = pa.Field(nullable=True, ge=0, description="Standard deviation of the draws")


class Supervision(Table):
    """One row per training conversation: its supervised tokens."""

    prompt_id: Series[str] = pa.Field(unique=True, str_matches=ID)
    tokens: Series[int] = pa.Field(ge=0, description="Tokens of the conversation")
    supervised_tokens: Series[int] = pa.Field(ge=0, description="Tokens whose label is not masked")
    is_end_supervised: Series[bool] = pa.Field(description="The end-of-turn token is supervised")
    is_begin_doubled: Series[bool] = pa.Field(description="The conversation begins with two begin tokens")
    learned: Series[str] = pa.Field(description="The supervised tokens, decoded; only for the first rows")


class Memorisation(Table):
    """One row per tuned post: the longest run of words that it shares with a training post of its cell."""

    prompt_id: Series[str] = pa.Field(unique=True, str_matches=ID)
    post_words: Series[int] = pa.Field(ge=0)
    shared_words: Series[int] = pa.Field(ge=0)
    shared: Series[str] = pa.Field(description="The run, without case and punctuation")
    training_prompt_id: Series[str] = pa.Field(description="Of the first training post with the run, or empty")
    training_post: Series[str] = pa.Field(description="That post, or empty")


class Forgetting(Table):
    """One row per kind of general text: its perplexity with and without the adapter."""

    kind: Series[str] = pa.Field(unique=True, str_length={"min_value": 1})
    passages: Series[int] = pa.Field(ge=1)
    tokens: Series[int] = pa.Field(ge=0, description="Predicted tokens: all of a passage but the first")
    base_perplexity: Series[float] = pa.Field(nullable=True, ge=1, description="exp of the mean; NaN where undefined")
    tuned_perplexity: Series[float] = pa.Field(nullable=True, ge=1)


class LossCurve(Table):
    """One row per optimizer step."""

    step: Series[int] = pa.Field(ge=1, unique=True)
    loss: Series[float] = pa.Field(ge=0, description="Mean cross-entropy of the supervised tokens")
    learning_rate: Series[float] = pa.Field(ge=0)


class Predictions(Factors):
    """One row per post of a contestant on an evaluation prompt."""

    contestant: Series[str] = pa.Field(isin=CONTESTANTS)
    post: Series[str] = pa.Field(description="As generated, white space at the ends removed")
    finish_reason: Series[str] = pa.Field(isin=("stop", "length"))
    prompt_tokens: Series[int] = pa.Field(ge=1)
    completion_tokens: Series[int] = pa.Field(ge=0)
    model: Series[str] = pa.Field(str_length={"min_value": 1})

    class Config(Table.Config):
        """A contestant answers a prompt once."""

        unique = ["prompt_id", "contestant"]  # noqa: RUF012 - pandera's own form


class Games(Factors):
    """One row per game of one judge: a candidate's post against an opponent's, in one order."""

    pair_id: Series[str] = pa.Field(str_matches=ID, description="Hash of prompt, opponent and the two posts")
    opponent: Series[str]
    is_candidate_first: Series[bool] = pa.Field(description="Whether the candidate's post was A")
    pick: Series[str] = pa.Field(isin=("A", "B", "tie", ""), description="The judge's choice; empty if unscored")
    outcome: Series[str] = pa.Field(isin=OUTCOMES, description="Outcome for the candidate")
    reason: Series[str] = pa.Field(description="Reason why the game is unscored, else empty")
    why: Series[str] = pa.Field(description="The judge's sentence, or empty")
    criteria: Series[str] = pa.Field(description="JSON: criterion id → A, B or tie; may be {}")
    raw_reply: Series[str] = pa.Field(description="The judge's raw reply")
    attempts: Series[int] = pa.Field(ge=1)
    prompt_tokens: Series[int] = pa.Field(ge=0, description="Of the last attempt")
    completion_tokens: Series[int] = pa.Field(ge=0)
    judge: Series[str] = pa.Field(str_length={"min_value": 1}, description="Provider and model")
    prompt_fingerprint: Series[str] = pa.Field(str_matches=ID, description="Hash of the judge's prompt")
    candidate_words: Series[int] = pa.Field(ge=0)
    opponent_words: Series[int] = pa.Field(ge=0)
    has_imitation: Series[bool] = pa.Field(description="A post imitates a verdict, a mark or a special token")

    @pa.dataframe_check(name="reason_if_unscored")
    def reason_if_unscored(cls, rows: pd.DataFrame) -> pd.Series:  # noqa: N805 - pandera makes it a class method
        """An unscored game has a reason, a scored one a pick."""
        unscored = rows["outcome"] == "unscored"
        return (unscored == (rows["reason"] != "")) & (unscored == (rows["pick"] == ""))

    class Config(Table.Config):
        """A judge plays a pair once per order."""

        unique = ["pair_id", "judge", "is_candidate_first"]  # noqa: RUF012 - pandera's own form


class ControlPredictions(Predictions):
    """One row per post of the untuned model, for the control."""

    contestant: Series[str] = pa.Field(isin=CONTROL_SETS)


class Verdicts(Games):
    """The games of one cell: the tuned posts against both baselines."""

    opponent: Series[str] = pa.Field(isin=OPPONENTS)


class ControlVerdicts(Games):
    """Games with a known answer, and those of `prompting`; `opponent` names the comparison."""

    opponent: Series[str] = pa.Field(isin=COMPARISONS)


class RatioReport(Table):
    """One row per cell × seed × opponent × level of a factor; factor `all` is the whole cell.

    Figures that need games in both orders, or all prompts, are NaN on the levels and in study mode.
    """

    data_size: Series[int] = pa.Field(ge=1, description="Rows of the subset")
    steps: Series[str] = pa.Field(str_matches=r"^([1-9]\d*|[1-9]\d?-epoch)$", description="Training length")
    seed: Series[int] = pa.Field(ge=0, description="Training seed")
    optimizer_steps: Series[int] = pa.Field(ge=1, description="Optimizer steps of the training")
    rows_seen: Series[int] = pa.Field(ge=1, description="min(rows, steps × batch)")
    replicate_group: Series[int] = pa.Field(ge=0, description="Cells with the same number, from 1, are replicates")
    opponent: Series[str] = pa.Field(isin=OPPONENTS)
    factor: Series[str] = pa.Field(str_length={"min_value": 1}, description="all, a factor, length or the group")
    level: Series[str] = pa.Field(str_length={"min_value": 1})
    pairs: Series[int] = pa.Field(ge=0)
    wins: Series[int] = pa.Field(ge=0)
    losses: Series[int] = pa.Field(ge=0)
    ties: Series[int] = pa.Field(ge=0)
    unscored: Series[int] = pa.Field(ge=0)
    win_ratio: Series[float] = pa.Field(nullable=True, ge=0, description="W/L; inf at L = 0, NaN at W + L = 0")
    win_ratio_low: Series[float] = pa.Field(nullable=True, ge=0, description="Exact 95 % interval")
    win_ratio_high: Series[float] = pa.Field(nullable=True, ge=0)
    tie_aware_ratio: Series[float] = pa.Field(nullable=True, ge=0, description="(W + T/2) / (L + T/2)")
    win_rate: Series[float] = pa.Field(nullable=True, ge=0, le=1, description="(W + T/2) / (W + L + T)")
    worst_case_ratio: Series[float] = pa.Field(nullable=True, ge=0, description="All unscored pairs counted as lost")
    p_value: Series[float] = pa.Field(ge=0, le=1, description="Exact sign test")
    p_adjusted: Series[float] = pa.Field(nullable=True, ge=0, le=1, description="Holm, over the cells of the sweep")
    order_consistency: Series[float] = pa.Field(nullable=True, ge=0, le=1)
    slot_bias: Series[float] = pa.Field(nullable=True, ge=-0.5, le=0.5, description="P(first output chosen) - 1/2")
    length_controlled_ratio: Series[float] = pa.Field(nullable=True, ge=0)
    length_controlled_low: Series[float] = pa.Field(nullable=True, ge=0, description="95 %, bootstrap over prompts")
    length_controlled_high: Series[float] = pa.Field(nullable=True, ge=0)
    length_coefficient: Series[float] = pa.Field(nullable=True, description="Above 0 the judge prefers longer posts")
    length_coefficient_low: Series[float] = pa.Field(nullable=True, description="95 %, bootstrap over prompts")
    length_coefficient_high: Series[float] = pa.Field(nullable=True)
    length_note: Series[str] = pa.Field(description="Why there is no length-controlled ratio or interval, else empty")
    compliance: Series[float] = pa.Field(nullable=True, ge=0, le=1, description="Mean share of criteria a post meets")
    compliance_low: Series[float] = pa.Field(nullable=True, ge=0, le=1, description="95 %, bootstrap over posts")
    compliance_high: Series[float] = pa.Field(nullable=True, ge=0, le=1)

    @pa.dataframe_check(name="counts_sum_to_pairs")
    def counts_sum_to_pairs(cls, rows: pd.DataFrame) -> pd.Series:  # noqa: N805 - pandera makes it a class method
        """W + L + T + X is the number of pairs."""
        return rows[["wins", "losses", "ties", "unscored"]].sum(axis=1) == rows["pairs"]


class Compliance(Table):
    """One row per cell × contestant × criterion: the share of posts that meet it."""

    data_size: Series[int] = pa.Field(ge=0, description="0 for the contestants without an adapter")
    steps: Series[str] = pa.Field(description="Empty for the contestants without an adapter")
    contestant: Series[str] = pa.Field(isin=CONTESTANTS)
    criterion: Series[str] = pa.Field(str_length={"min_value": 1})
    posts: Series[int] = pa.Field(ge=1, description="Posts the criterion applies to")
    met: Series[int] = pa.Field(ge=0)


TABLES: dict[str, type[Table]] = {
    "catalog": Catalog,
    "prompts": Prompts,
    "evaluation_prompts": EvaluationPrompts,
    "synthetic_rows": SyntheticRows,
    "data_subsets": DataSubsets,
    "adapters": LossCurve,
    "baseline_predictions": Predictions,
    "predictions": Predictions,
    "control_predictions": ControlPredictions,
    "verdicts": Verdicts,
    "control_verdicts": ControlVerdicts,
    "ratio_report": RatioReport,
}
"""Asset → schema of its main table."""
BESIDE: dict[str, type[Table]] = {
    "diversity": Diversity,
    "supervision": Supervision,
    "forgetting": Forgetting,
    "memorisation": Memorisation,
    "compliance": Compliance,
}
"""Schemas of the other tables of artifacts."""
RESERVED = frozenset(name for table in (*TABLES.values(), *BESIDE.values()) for name in table.to_schema().columns) | {
    "all",
    "always",
    "cell",
    "contestant",
    "fence",
    "id",
    "length",
    "may_tie",
    "opponent",
    "outcome",
    "post_a",
    "post_b",
    "sample",
    "stratum",
    "text",
}
"""Words that a task cannot use as the name of an item, group or factor, because tables, pages or prompts use them."""


def schema_of(table: type[Table], columns: Sequence[str]) -> pa.DataFrameSchema:
    """The schema of a table with a task's own columns (`TaskSpec.prompt_columns`)."""
    schema = table.to_schema()
    if not issubclass(table, Factors):
        return schema
    own = {name: pa.Column(str, pa.Check.str_length(min_value=1)) for name in columns if name != "prompt_id"}
    return schema.add_columns(own)
