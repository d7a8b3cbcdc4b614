"""Training without a study, on a CPU or a GPU: rows of uneven length, a specification, a tuner, and comparisons.

A study whose adapters are missing is in `tuning_home`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from synthpost_dagster.inference.models import load
from synthpost_dagster.profiles import Lora, TrainingSpec
from synthpost_dagster.profiles.models import ModelSpec
from synthpost_dagster.runtime.devices import Device
from synthpost_dagster.runtime.progress import Event, Progress
from synthpost_dagster.training.checkpoints import Checkpoints
from synthpost_dagster.training.sft import Job, Tuned, Tuner

CPU = Device("cpu", "cpu", "CPU")
STUDENT = ModelSpec(model="embedded", revision=None, quantization="none", dtype="float32", memory_gib=0.1)
SPEC = TrainingSpec(
    trainer="trl",
    lora=Lora(
        r=4,
        alpha=8,
        dropout=0.0,
        bias="none",
        target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ),
    optimizer="adamw_torch",
    learning_rate=2e-3,
    scheduler="linear",
    warmup_steps=0,
    weight_decay=0.01,
    max_grad_norm=1.0,
    precision="float32",
    rows_per_step=8,
    micro_batch=8,
    gradient_checkpointing=False,
    padding_free=True,
    compile=False,
    checkpoint_seconds=1e6,
    max_length=512,
    packing=False,
    seed=3407,
    loss="completion",
    system_prompt=False,
)
OPENING = "Ready for rain? Order yours today, and ride on with a smile! We keep our promises. #Ride"
WORDS = OPENING.split(" ")
NEVER, ALWAYS = 1e6, 1e-9
"""Seconds between checkpoints."""
BF16 = STUDENT.model_copy(update={"dtype": "bfloat16"})
ROUNDING = 0.01
"""Relative tolerance of a loss in bfloat16, which has 8 bits."""
FAR = 1e-3
"""Tolerance between two adapters after a few steps of 2e-3: rounding can change the sign of Adam's steps."""
FEW_OR_ODD = [(1, 8, [1, 1, 1]), (3, 2, [3, 3, 3]), (10, 4, [8, 2, 8]), (11, 2, [8, 3, 8])]
"""Rows, the micro-batch, and the rows that each of three steps of at most eight takes."""


def rows_of(count: int) -> pd.DataFrame:
    """That many conversations, no two neighbours equally long."""
    posts = [" ".join((WORDS * 3)[at % 5 : at % 5 + 3 + 7 * at % 23]) for at in range(count)]
    prompts = [f"Write a sales post about {' '.join(WORDS[: 1 + 5 * at % 11])} No. {at}" for at in range(count)]
    ids = [f"{at:016x}" for at in range(count)]
    return pd.DataFrame({"prompt_id": ids, "student_prompt": prompts, "post": posts})


def spec_of(**changes: Any) -> TrainingSpec:
    """The specification with some keys changed."""
    return SPEC.model_copy(update=changes)


@contextlib.contextmanager
def tuner_of(
    spec: TrainingSpec = SPEC, student: ModelSpec = STUDENT, device: Device = CPU, steps: int = 1
) -> Iterator[Tuner]:
    """A tuner on a model of its own."""
    with Tuner(load(student, device), student.model, spec, steps, device) as tuner:
        yield tuner


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch has no types here
    """Counts calls of operators of torch."""

    def __init__(self, *operators: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operators, self.made = operators, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.made += function in self._operators
        return function(*args, **(kwargs or {}))


def scaled_products() -> Counted:
    """Counts products in 8 bits."""
    return Counted(torch.ops.aten._scaled_mm.default)


class ProgressLog(list[str]):
    """Records progress: completed steps as `step 1`, notes unchanged."""

    @property
    def progress(self) -> Progress:
        """Progress that records here."""
        return Progress(self._hear)

    def _hear(self, event: Event) -> None:
        begins = event.done == 0 or (bool(self) and self[-1].startswith(f"training resumes at step {event.done} "))
        if event.what != "training":
            self.append(event.text)
        elif not begins:
            self.append(f"step {event.done}")

    @property
    def steps(self) -> list[int]:
        """The numbers of the completed optimizer steps, in order."""
        return [int(line.removeprefix("step ")) for line in self if line.startswith("step ")]


def cell(
    tuner: Tuner,
    folder: Path,
    spec: TrainingSpec = SPEC,
    rows: pd.DataFrame | None = None,
    steps: int = 3,
    log: ProgressLog | None = None,
    seconds: float = NEVER,
    system_prompt: str | None = None,
) -> Tuned:
    """Trains, by default on twelve rows, into `folder / "adapter"`, with checkpoints in `folder / "checkpoints"`."""
    job = Job(rows_of(12) if rows is None else rows, steps, spec, system_prompt)
    progress = (ProgressLog() if log is None else log).progress
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    return tuner.tune(job, folder / "adapter", Checkpoints(folder / "checkpoints", seconds), progress)


def alone(
    folder: Path, spec: TrainingSpec = SPEC, student: ModelSpec = STUDENT, device: Device = CPU, **how: Any
) -> Tuned:
    """A cell under a tuner of its own."""
    with tuner_of(spec, student, device) as tuner:
        return cell(tuner, folder, spec, **how)


class Stopped(BaseException):
    """Ends a training as a kill does, while the process lives on."""


class Stopping(ProgressLog):
    """Ends the training in the step after `after`."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def _hear(self, event: Event) -> None:
        super()._hear(event)
        if self.steps and self.steps[-1] > self._after:
            raise Stopped


def half_done(
    folder: Path,
    after: int,
    spec: TrainingSpec = SPEC,
    student: ModelSpec = STUDENT,
    device: Device = CPU,
    **how: Any,
) -> Path:
    """The last checkpoint of a training that is stopped after these steps and wrote a checkpoint after each."""
    with contextlib.suppress(Stopped), tuner_of(spec, student, device) as tuner:
        cell(tuner, folder, spec, log=Stopping(after), seconds=ALWAYS, **how)
        raise AssertionError("it ended before it was stopped")
    return folder / "checkpoints" / f"checkpoint-{after}"


def weights(folder: Path) -> dict[str, Any]:
    """The tensors of the adapter in `folder / "adapter"`."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")


def largest_difference(one: Path, other: Path) -> float:
    """The largest difference between the weights of two adapters, neither of which is zero."""
    ours, theirs = weights(one), weights(other)
    assert set(ours) == set(theirs)
    assert all(weight.abs().max() > 0 for weight in ours.values())
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def state_of(model: Any) -> dict[str, Any]:
    """What training may change on a model and has to restore."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modules": [(name, type(module).__name__) for name, module in model.named_modules()],
        "weights": [(name, weight.dtype, weight.requires_grad) for name, weight in model.named_parameters()],
        "with gradients": [name for name, weight in model.named_parameters() if weight.grad is not None],
        "hooks": [(name, kind) for name, module in model.named_modules() for kind in hooks if getattr(module, kind)],
        "training": [name for name, module in model.named_modules() if module.training],
        "compiled": [name for name, module in model.named_modules() if module._compiled_call_impl is not None],
        "is_gradient_checkpointing": model.is_gradient_checkpointing,
        "attention": model.config._attn_implementation,
        "config": model.config.to_dict(),
    }


def assert_steps_take(
    folder: Path,
    rows: int,
    taken: Sequence[int],
    spec: TrainingSpec,
    student: ModelSpec = STUDENT,
    device: Device = CPU,
) -> None:
    """Each step takes its number of rows, in micro-batches as full as possible, and the model learns."""
    batches: list[int] = []
    with tuner_of(spec, student, device) as tuner:
        handle = tuner.loaded.model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: batches.append(_rows_in(inputs[0]))
        )
        curve = cell(tuner, folder, spec, rows=rows_of(rows), steps=len(taken)).curve
        handle.remove()
    size = spec.micro_batch
    assert isinstance(size, int)
    assert batches == [min(size, left) for step in taken for left in range(step, 0, -size)]
    assert curve["step"].tolist() == list(range(1, len(taken) + 1))
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]


def _rows_in(ids: Any) -> int:
    """Each row begins with token 0, whether rows are concatenated or stacked; padding on a GPU is all zeros."""
    return int(((ids[:, :-1] == 0) & (ids[:, 1:] != 0)).sum())
