"""Gates on posts: duplicates, openings, rejected and cleaned replies, sentences, diversity, personal data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synthpost_dagster.quality.result import MAX_ROWS, Finding, finding, kept, shown
from synthpost_dagster.rows.diversity import IS_MORE_BETTER, Spread, is_worse, opening
from synthpost_dagster.rows.duplicates import NearDuplicates
from synthpost_dagster.rows.personal import KINDS, personal_data
from synthpost_dagster.rows.rejection import NEAR_DUPLICATE
from synthpost_dagster.tasks.task import Task
from synthpost_dagster.text.normalize import normalised

if TYPE_CHECKING:
    import pandas as pd

MIN_COMMON_OPENING = 3
"""Rows that may have the same opening in a table of any size."""
TEXT_COLUMNS = ("teacher_prompt", "student_prompt", "post")


def duplicates(task: Task, table: pd.DataFrame, target: int) -> Finding:
    """No two kept posts are the same apart from case, space and punctuation."""
    rows = kept(table)
    text = rows["post"].map(lambda post: hash(normalised(post)))
    count = int(text.duplicated().sum())
    message = f"{count} of {len(rows)} kept posts repeat another, apart from case, space and punctuation"
    return finding(not count, message, shown(task, rows[text.duplicated(keep=False)]), duplicates=float(count))


def near_duplicates(task: Task, table: pd.DataFrame, target: int) -> Finding:
    """Few prompts have a kept post that nearly repeats an earlier one, or a last reply rejected for it."""
    import pandas as pd

    rows, limits = kept(table), task.spec.quality
    index, near = NearDuplicates(limits.near_duplicate_jaccard), []
    post_of = dict(zip(rows["prompt_id"], rows["post"], strict=True))
    for row, prompt_id, post in zip(rows.index, rows["prompt_id"], rows["post"], strict=True):
        neighbour = index.add_unless_near(prompt_id, post)
        if neighbour:
            near.append((row, f"{neighbour.jaccard:.2f}", neighbour.key, post_of[neighbour.key]))
    last = _last_attempts(table)
    given_up = last[last["reason"] == NEAR_DUPLICATE] if "reason" in last else last.head(0)
    share = (len(near) + len(given_up)) / max(1, len(last))
    pairs = rows.loc[[row for row, *_ in near]].assign(
        jaccard=[jaccard for _, jaccard, _, _ in near],
        near=[key for _, _, key, _ in near],
        near_post=[post for *_, post in near],
    )
    message = (
        f"{len(near)} of {len(rows)} kept posts are near an earlier one (Jaccard index of word 3-grams at least "
        f"{limits.near_duplicate_jaccard:g})"
        + (f", and {len(given_up)} prompts stayed rejected for it" if "reason" in last else "")
        + f": {share:.1%}; the limit is {limits.max_near_duplicate_share:.0%} (quality.max_near_duplicate_share)"
    )
    # Among the first MAX_ROWS are rows of both kinds.
    named = pd.concat([pairs.head(MAX_ROWS // 2), given_up, pairs.iloc[MAX_ROWS // 2 :]]).fillna("")
    return finding(
        share <= limits.max_near_duplicate_share,
        message,
        shown(task, named, "jaccard", "near", "near_post"),
        near_duplicates=float(len(near)),
        near_duplicate_share=share,
    )


def openings(task: Task, table: pd.DataFrame, target: int) -> Finding:
    """No first five words begin more posts than the limit."""
    rows, limit = kept(table), task.spec.quality.max_opening_share
    first = rows["post"].map(opening)
    counts = first.value_counts()
    most = max(MIN_COMMON_OPENING, limit * len(rows))
    common = counts[counts > most]
    top = int(counts.iloc[0]) if len(counts) else 0
    message = (
        f"{len(common)} openings begin more than {most:g} of {len(rows)} posts (quality.max_opening_share "
        f"{limit:.0%}, at least {MIN_COMMON_OPENING})"
        + (f"; the most frequent, {counts.index[0]!r}, begins {top}" if top > 1 else "")
    )
    named = rows[first.isin(common.index)]
    return finding(
        common.empty,
        message,
        shown(task, named.assign(opening=first[named.index]), "opening"),
        common_openings=float(len(common)),
        commonest_opening=float(top),
    )


def cleaning(task: Task, table: pd.DataFrame, target: int) -> Finding:
    """Few replies had outer quotes or a preamble that had to be stripped."""
    limit = task.spec.quality.max_cleaned_share
    cleaned = table[table["stripped"] != ""]
    share = len(cleaned) / max(1, len(table))
    kinds = ", ".join(f"{count} {kind}" for kind, count in cleaned["stripped"].value_counts().items())
    message = (
        f"{len(cleaned)} of {len(table)} replies were cleaned{f' ({kinds})' if kinds else ''}: {share:.1%}; the "
        f"limit is {limit:.0%} (quality.max_cleaned_share)"
    )
    return finding(share <= limit, message, shown(task, cleaned, "stripped", "raw_reply"), cleaned_share=share)


def rejected_share(task: Task, table: pd.DataFrame, target: int) -> Finding:
    """Few enough prompts stay rejected."""
    last = _last_attempts(table)
    rejected = last[last["status"] == "rejected"]
    share, limit = len(rejected) / max(1, len(last)), task.spec.quality.max_rejected_share
    reasons = ", ".join(f"{count} {reason}" for reason, count in rejected["reason"].value_counts().items())
    message = (
        f"{share:.1%} of the prompts stayed rejected{f' ({reasons})' if reasons else ''}; the limit is {limit:.0%} "
        "(quality.max_rejected_share)"
    )
    return finding(share <= limit, message, shown(task, rejected), rejected_share=share)


def wrong_length(task: Task, table: pd.DataFrame, target: int) -> Finding:
    """Few enough kept posts have the wrong length."""
    rows, limit = kept(table), task.spec.quality.max_out_of_band_share
    missed = rows[~rows["is_in_band"]]
    share = len(missed) / max(1, len(rows))
    message = (
        f"{len(missed)} of {len(rows)} kept posts have the wrong length: {share:.1%}; the limit is "
        f"{limit:.0%} (quality.max_out_of_band_share)"
    )
    return finding(share <= limit, message, shown(task, missed, "length"), out_of_band_share=share)


def diversity(task: Task, table: pd.DataFrame, target: int) -> Finding:
    """The posts are as varied as the task requires, and a subset as varied as random draws of its size.

    `table` follows the schema Diversity.
    """
    limits = task.spec.quality.diversity.model_dump(exclude_none=True)
    rows = table.assign(fault="")
    for at, row in zip(rows.index, table.itertuples(), strict=True):
        rows.loc[at, "fault"] = _fault(row, limits if row.equal_rows <= task.spec.sweep.data_sizes[0] else {})
    at_fault = rows[rows["fault"] != ""]
    figures = {str(row.metric): float(row.value) for row in table.itertuples()}
    size = int(table["equal_rows"].iloc[0])
    message = (
        "; ".join(at_fault["fault"])
        if len(at_fault)
        else f"distinct-2 {figures['distinct_2']:.2f}, compression ratio {figures['compression_ratio']:.1f}, self-BLEU "
        f"{figures['self_bleu']:.0f}; compared at {size} rows, no figure is outside quality.diversity or the draws"
    )
    return finding(at_fault.empty, message, at_fault, **figures)


def _fault(row: Any, limits: dict[str, float]) -> str:
    """Why a metric fails, or an empty string."""
    is_own_size = row.rows == row.equal_rows
    figure = row.value if is_own_size or row.draws_mean != row.draws_mean else row.draws_mean
    better = IS_MORE_BETTER[row.metric]
    limit = limits.get(f"{'min' if better else 'max'}_{row.metric}")
    if limit is not None and (figure < limit if better else figure > limit):
        return f"{row.metric} is {figure:.3g} at {row.equal_rows} rows; the limit is {limit:g} (quality.diversity)"
    drawn = Spread(row.draws_mean, row.draws_deviation)
    if is_own_size and is_worse(row.metric, figure, drawn):
        edge = drawn.low if better else drawn.high
        return f"{row.metric} is {figure:.3g}, worse than {edge:.3g}, the edge of draws of {row.rows} rows"
    return ""


def personal(task: Task, table: pd.DataFrame, target: int) -> Finding:
    """No e-mail address, phone number or card number is in what may be sent to a hosted model."""
    columns, region = [name for name in TEXT_COLUMNS if name in table], task.spec.quality.phone_region
    found = [
        sorted({find for text in texts for find in personal_data(text, region)})
        for texts in zip(*(table[name] for name in columns), strict=True)
    ]
    named = table[[bool(finds) for finds in found]]
    counts = {kind: sum(any(kind == which for which, _ in finds) for finds in found) for kind in KINDS}
    message = f"{len(named)} of {len(table)} rows hold personal data: " + ", ".join(
        f"{kind} in {count}" for kind, count in counts.items()
    )
    listed = named.assign(found=["; ".join(f"{kind} {text}" for kind, text in finds) for finds in found if finds])
    figures = {f"rows_with_{kind.replace('-', '')}": float(count) for kind, count in counts.items()}
    return finding(named.empty, message, shown(task, listed, "found"), **figures)


def _last_attempts(table: pd.DataFrame) -> pd.DataFrame:
    if "attempt" not in table:
        return table
    return table.sort_values("attempt", kind="stable").drop_duplicates("prompt_id", keep="last")
