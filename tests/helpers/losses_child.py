"""Losses of a trainer in a process of its own, as JSON: `losses_child.py STEPS SPEC`.

Unsloth changes libraries for the whole process, so that no other trainer may run beside it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from synthpost_dagster.profiles import TrainingSpec
from synthpost_dagster.runtime.devices import Devices
from synthpost_dagster.settings import keep_quiet
from synthpost_dagster.training.trainers import trainer
from tests.helpers.tuning_world import STUDENT, cell, rows_of


def main(steps: int, spec: TrainingSpec) -> list[float]:
    """The losses of so many steps on 64 rows with the embedded model in bfloat16."""
    device = Devices("cuda").candidates()[0]
    student = STUDENT.model_copy(update={"dtype": "bfloat16"})
    kind = trainer(spec.trainer)
    loaded = kind.load(student, spec, device)
    with kind(loaded, "embedded", spec, steps, device) as tuner, tempfile.TemporaryDirectory() as place:
        return cell(tuner, Path(place), spec, rows=rows_of(64), steps=steps).curve["loss"].tolist()


if __name__ == "__main__":
    keep_quiet()
    losses = main(int(sys.argv[1]), TrainingSpec.model_validate_json(sys.argv[2]))
    sys.stdout.write(f"\nlosses: {json.dumps(losses)}\n")
