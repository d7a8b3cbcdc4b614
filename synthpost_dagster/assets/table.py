"""What Dagster shows of each asset. A row here and a stage in `stages` are all that an asset needs."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from synthpost_dagster.profiles.spec import Profile
from synthpost_dagster.report.figures import cells_png, loss_png
from synthpost_dagster.stages.stage import BASELINE, CONTROL

if TYPE_CHECKING:
    import pandas as pd

Picture = Callable[["pd.DataFrame", Profile], bytes]


class Row(NamedTuple):
    """One asset: its group, kinds and description, which pool its steps share, and how its picture is drawn."""

    group: Literal["data", "training", "evaluation"]
    kinds: tuple[str, ...]
    description: str
    holds: Literal["", "student", "teacher", "judge"] = ""
    """The model that its steps hold; steps that hold a model share a pool."""
    picture: Picture | None = None


ROWS: Mapping[str, Row] = {
    "catalog": Row("data", ("yaml", "parquet"), "The task's items; each is marked train, holdout or both."),
    "prompts": Row("data", ("jinja", "parquet"), "Training prompts: factors, teacher and student prompt, rank."),
    "evaluation_prompts": Row(
        "data", ("jinja", "parquet"), "Prompts of the holdout that every contestant answers, balanced over strata."
    ),
    "synthetic_rows": Row(
        "data", ("huggingface", "parquet"), "The teacher's outputs, kept or rejected with a reason.", "teacher"
    ),
    "data_subsets": Row(
        "data", ("pandas", "parquet"), "Training conversations of one data size; each subset contains the smaller ones."
    ),
    "adapters": Row(
        "training",
        ("pytorch", "huggingface"),
        "A PEFT adapter with its loss curve: the student trained on one subset for one training length.",
        "student",
        lambda curve, _: loss_png(curve),
    ),
    BASELINE: Row(
        "evaluation",
        ("huggingface", "parquet"),
        "The untuned model's outputs, with the student prompt (base) and with the teacher prompt (prompted).",
        "student",
    ),
    CONTROL: Row(
        "evaluation",
        ("huggingface", "parquet"),
        "The untuned model's outputs, sampled twice with different seeds, to be compared with each other.",
        "student",
    ),
    "predictions": Row(
        "evaluation",
        ("huggingface", "parquet"),
        "The tuned model's outputs for the evaluation prompts, with the student prompt.",
        "student",
    ),
    "verdicts": Row(
        "evaluation",
        ("pandas", "parquet"),
        "Every game of the tuned output against each baseline, in both orders: raw reply, pick, outcome or reason.",
        "judge",
    ),
    "control_verdicts": Row(
        "evaluation", ("pandas", "parquet"), "Games whose right answer is known: they test the judge.", "judge"
    ),
    "ratio_report": Row(
        "evaluation",
        ("pandas", "html"),
        "Win ratios with their intervals, by cell and factor, as parquet, CSV and a page.",
        picture=lambda ratios, profile: cells_png(ratios[ratios["seed"] == profile.training.seed]),
    ),
}
"""Asset → its row, in the order data flows."""
