"""Losses of a trainer in a process of its own: `python -m tests.helpers.losses_child STEPS SPEC` prints them as JSON.

Unsloth patches libraries for the whole process, so that no other trainer can run in it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from synthpost_dagster.profiles import TrainingSpec
from synthpost_dagster.runtime.devices import Devices
from synthpost_dagster.settings import keep_quiet
from synthpost_dagster.training.trainers import trainer
from tests.helpers.tuning import STUDENT, cell, rows_of


def main(steps: int, spec: TrainingSpec) -> list[float]:
    """The losses of these steps on 64 rows with the embedded model in bfloat16."""
    device = Devices("cuda").candidates()[0]
    student = STUDENT.model_copy(update={"dtype": "bfloat16"})
    kind = trainer(spec.trainer)
    loaded = kind.load(student, spec, device)
    with kind(loaded, "embedded", spec, steps, device) as tuner, tempfile.TemporaryDirectory() as place:
        curve = cell(tuner, Path(place), spec, rows=rows_of(64), steps=steps).curve
        return [float(loss) for loss in curve["loss"]]


if __name__ == "__main__":
    keep_quiet()
    losses = main(int(sys.argv[1]), TrainingSpec.model_validate_json(sys.argv[2]))
    sys.stdout.write(f"\nlosses: {json.dumps(losses)}\n")
