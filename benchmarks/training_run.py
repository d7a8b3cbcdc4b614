"""One way of tuning, measured in a process of its own, for bench_training.py: the package's own trainers.

Writes a record: milliseconds a step, tokens, memory, losses, and the layout that was chosen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from random_llama import SHAPES, random_rows

GIB = 2**30
READY = "ready"
"""Said after the steps of warming up, when all is compiled; a line on the standard input lets the others begin."""
STARTED = time.perf_counter()

Record = dict[str, Any]


@dataclass
class Way:
    """A configuration: what differs from the profile `llama3-8b`."""

    training: Record = field(default_factory=dict)
    student: Record = field(default_factory=dict)
    is_study: bool = False
    memory_gib: float | None = None


NF4 = {"quantization": "nf4"}
PACKED = {**NF4, "dequantize": False}
BARE = {"padding_free": False, "compile": False, "gradient_checkpointing": False, "micro_batch": 8}
WAYS = {
    "study, Unsloth": Way({"trainer": "unsloth"}, PACKED, is_study=True),
    "study, TRL": Way({}, PACKED, is_study=True),
    "Unsloth, NF4, 8 x 1": Way({"trainer": "unsloth", **BARE}, PACKED),
    "Unsloth, bf16, 8 x 1": Way({"trainer": "unsloth", **BARE}),
    "TRL, bf16, 8 x 1": Way(BARE),
    "ours, bf16": Way({"compile": True}),
    "ours, NF4 decoded": Way({"compile": True}, NF4),
    "ours, NF4 decoded, float8": Way({"compile": True, "precision": "float8"}, NF4),
    "ours, NF4 decoded, not compiled": Way({"compile": False}, NF4),
    "ours, NF4 decoded, 4 rows": Way({"compile": True, "micro_batch": 4}, NF4),
    "ours, NF4 decoded, 2 rows": Way({"compile": True, "micro_batch": 2}, NF4),
    "ours, NF4 decoded, activations made again": Way({"compile": True, "gradient_checkpointing": True}, NF4),
    "ours, NF4, 8 GiB": Way({"compile": True}, PACKED, memory_gib=8.0),
    "ours, NF4, 8 GiB, not compiled": Way({"compile": False}, PACKED, memory_gib=8.0),
    "ours, NF4, 14 GiB": Way({"compile": True}, PACKED, memory_gib=14.0),
    "ours, NF4, 22 GiB": Way({"compile": True}, NF4, memory_gib=22.0),
}
"""14 and 22 GiB are what is left of a card with 16 or 24 GB, 8 GiB what others on it leave of 16 GB."""


class Watch:
    """Hears of every step; times those after the warm-up, and waits before them until it is told to go on."""

    def __init__(self, warmup: int, steps: int, device: str, is_told: bool) -> None:
        self._warmup, self._steps, self._device, self._is_told = warmup, steps, device, is_told
        self._begin = self._end = self.setup_seconds = self.setup_peak_gib = 0.0

    def __call__(self, event: Any) -> None:
        """Listens to the trainer's progress."""
        if event.what != "training":
            print(event.text, file=sys.stderr)
        elif event.done == self._warmup:
            self._now()
            self.setup_seconds = time.perf_counter() - STARTED
            self.setup_peak_gib = self.peak_gib()
            if self._is_told:
                print(READY, flush=True)
                sys.stdin.readline()
            self._begin = self._now()
        elif event.done == self._steps:
            self._end = self._now()

    def record(self, tokens: int) -> Record:
        """What was measured, where so many tokens were trained on in the steps after the warm-up."""
        steps, seconds = self._steps - self._warmup, self._end - self._begin
        return {
            "steps": steps,
            "ms_per_step": round(1000 * seconds / steps, 1),
            "tokens_per_step": round(tokens / steps, 1),
            "tokens_per_second": round(tokens / seconds, 1),
            "peak_gib": round(self.peak_gib(), 2),
            "setup_seconds": round(self.setup_seconds, 1),
            "setup_peak_gib": round(self.setup_peak_gib, 2),
        }

    def peak_gib(self) -> float:
        """The most that torch has reserved so far; 0 on the CPU."""
        import torch

        return torch.cuda.max_memory_reserved() / GIB if self._device != "cpu" else 0.0

    def _now(self) -> float:
        import torch

        if self._device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(options: argparse.Namespace) -> Record:
    """The record of one configuration."""
    from synthpost_dagster.profiles import STUDY_TRAINING, load_profile
    from synthpost_dagster.runtime.devices import Devices
    from synthpost_dagster.runtime.progress import Progress
    from synthpost_dagster.tasks.loading import load_task
    from synthpost_dagster.training.checkpoints import Checkpoints
    from synthpost_dagster.training.sft import Job
    from synthpost_dagster.training.trainers import trainer

    way, is_cpu = WAYS[options.name], options.device == "cpu"
    profile = load_profile("llama3-8b", load_task("sales_posts"))
    own = {"optimizer": "adamw_torch"} if is_cpu else {}
    spec = (STUDY_TRAINING if way.is_study else profile.training).model_copy(update={**way.training, **own})
    spec = spec.model_copy(update={"system_prompt": False, "checkpoint_seconds": 3600.0})
    place = {"model": str(options.checkpoint), "revision": None, "quantization": "none", "memory_gib": 1.0}
    student = profile.student.model_copy(update={**place, **way.student})
    rows = random_rows(options.steps * spec.rows_per_step, int(SHAPES[options.shape]["vocab_size"]))
    watch = Watch(options.warmup, options.steps, options.device, options.told)
    kind = trainer(spec.trainer)
    # Locks of its own: others of its group hold the device meanwhile, and wait.
    folder = Path(tempfile.mkdtemp())
    devices = Devices(options.device, folder=folder / "locks", memory_gib=way.memory_gib)
    with devices.lease(1.0) as lease:
        loaded = kind.load(student, spec, lease.device)
        with kind(loaded, student.model, spec, options.steps, lease.device) as tuner:
            job = Job(rows, options.steps, spec, None)
            tuned = tuner.tune(job, folder, Checkpoints(folder / "checkpoints", 3600.0), Progress(watch))
    # Each row is met once, in an order of the trainer's own: the mean step is that of all rows.
    tokens = int(tuned.supervision["tokens"].sum() * (options.steps - options.warmup) / options.steps)
    return {
        "configuration": options.name,
        "layout": tuned.layout.text,
        **watch.record(tokens),
        "losses": [round(loss, 4) for loss in tuned.curve["loss"]],
        "seconds_in_all": round(time.perf_counter() - STARTED, 1),
    }


def options_of() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the folder with the random weights")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="llama3-8b")
    parser.add_argument("--name", choices=tuple(WAYS), required=True)
    parser.add_argument("--steps", type=int, default=40, help="those of warm-up counted in")
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--told", action="store_true", help="wait for a line before the steps that are measured")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Measures and writes the record."""
    options = options_of()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    options.out.write_text(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
