"""Gates on training: leakage, memorisation, supervised tokens and forgetting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from synthpost_dagster.quality.result import Finding, finding, shown
from synthpost_dagster.rows.leakage import LeakFinder
from synthpost_dagster.statistics.perplexity import whole
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd

TRAINING_TEXTS = ("student_prompt", "post")


def leakage(task: Task, table: pd.DataFrame, target: int) -> Finding:
    """No training prompt or output names a holdout item or repeats a long run of words of its text."""
    finder, limit, item = LeakFinder(task), task.spec.holdout.leak.words, task.spec.words.item[0]
    texts = zip(*(table[name] for name in TRAINING_TEXTS if name in table), strict=True)
    leaks = [finder.find("\n".join(text), own) for text, own in zip(texts, table[item], strict=True)]
    found = [leak for leak in leaks if leak]
    named = table[[leak is not None for leak in leaks]].assign(
        leaked_item=[leak.item for leak in found], shared=[leak.text for leak in found]
    )
    message = (
        f"{len(found)} of {len(table)} training rows name a holdout {item} or share {limit} words or more with its "
        "text (holdout.leak.words)"
    )
    return finding(
        not found,
        message,
        shown(task, named, "leaked_item", "shared"),
        leaked_rows=float(len(found)),
        longest_words=float(max((leak.words for leak in found), default=0)),
    )


def memorisation(task: Task, table: pd.DataFrame, target: int) -> Finding:
    """Reports how much of the tuned posts is copied from training posts; `table` follows the schema Memorisation."""
    longest = table.sort_values("shared_words", ascending=False, kind="stable")
    words = table["shared_words"]
    whole = int(((words > 0) & (words >= table["post_words"])).sum())
    if table.empty:
        return finding(True, "there is no tuned post", table)
    message = (
        f"longest run of words that a tuned post shares with a training post: {int(words.max())}, in the middle "
        f"{words.median():g}; {whole} of {len(table)} posts are part of one as a whole"
    )
    return finding(
        True,
        message,
        longest[["prompt_id", "shared_words", "post_words", "shared", "training_post"]],
        longest_words=float(words.max()),
        median_words=float(words.median()),
        whole_posts=float(whole),
    )


def supervised_tokens(task: Task, table: pd.DataFrame, target: int) -> Finding:
    """Every row has supervised tokens, and its end of turn is one of them; `table` follows the schema Supervision."""
    at_fault = table[(table["supervised_tokens"] == 0) | ~table["is_end_supervised"]]
    share = float(table["supervised_tokens"].sum() / max(1, table["tokens"].sum()))
    message = (
        f"{share:.1%} of {int(table['tokens'].sum())} tokens are supervised; in {len(at_fault)} of {len(table)} "
        "rows no token is, or the end of turn is not"
    )
    return finding(at_fault.empty and share > 0, message, at_fault, supervised_share=share)


def forgetting(task: Task, table: pd.DataFrame, target: int) -> Finding:
    """General text stays about as likely to the tuned model as to its base; `table` follows the schema Forgetting."""
    limit, found = task.spec.quality.max_perplexity_ratio, whole(table)
    kinds = table.assign(ratio=table["tuned_perplexity"] / table["base_perplexity"])
    at_fault = kinds[~(kinds["ratio"] <= limit)].sort_values("ratio", ascending=False, kind="stable")
    ratio = "undefined" if math.isnan(found.ratio) else f"{found.ratio:.2f} times that of the base"
    message = (
        f"the perplexity of {int(table['tokens'].sum())} tokens of general text is {ratio}; the limit is {limit:g} "
        "(quality.max_perplexity_ratio)"
    )
    return finding(found.ratio <= limit, message, at_fault, perplexity_ratio=found.ratio)
