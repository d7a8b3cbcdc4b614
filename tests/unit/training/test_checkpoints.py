"""A training resumes from its last complete checkpoint and ends like an uninterrupted one."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from synthpost_dagster.errors import StorageError
from synthpost_dagster.inference.peft_files import WEIGHTS
from synthpost_dagster.runtime.progress import Event, Progress
from synthpost_dagster.training.checkpoints import COMPLETE, OPTIMIZER, STATE, Checkpoints, fault_of
from synthpost_dagster.training.sft import Tuned
from synthpost_dagster.training.trl_trainers import PaddingFreeTrainer, Watch
from tests.helpers.tuning import ALWAYS, NEVER, ProgressLog, alone, half_done, largest_difference, rows_of, spec_of

ROWS = rows_of(12)
STEPS = 5


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Tuned]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    yield folder, alone(folder, rows=ROWS, steps=STEPS)


@pytest.mark.parametrize("padding_free", [True, False])
def test_resumed_training_equals_an_uninterrupted_one(
    undisturbed: tuple[Path, Tuned], tmp_path: Path, padding_free: bool
) -> None:
    spec, log = spec_of(padding_free=padding_free), ProgressLog()
    last = half_done(tmp_path, 3, spec, rows=ROWS, steps=STEPS)
    assert [path.name for path in last.parent.glob("checkpoint-*")] == [last.name], "earlier ones go"
    tuned = alone(tmp_path, spec, rows=ROWS, steps=STEPS, log=log)
    assert "training resumes at step 3 of 5" in log
    assert log.steps == [4, 5]
    folder, whole = undisturbed
    assert tuned.curve["step"].tolist() == [1, 2, 3, 4, 5]
    assert tuned.curve["loss"].tolist() == pytest.approx(whole.curve["loss"].tolist(), abs=1e-4)
    assert tuned.curve["learning_rate"].tolist() == pytest.approx(whole.curve["learning_rate"].tolist())
    # The padded trainer rounds differently.
    assert largest_difference(tmp_path, folder) < (1e-5 if padding_free else 2e-4)


def test_progress_continues_at_the_step_of_the_checkpoint(tmp_path: Path) -> None:
    events: list[Event] = []
    watch = Watch(Checkpoints(tmp_path, NEVER), Progress(events.append), 4)
    state, control = TrainerState(), TrainerControl()
    state.global_step = 2
    watch.on_train_begin(None, state, control)
    state.global_step = 3
    watch.on_step_end(None, state, control)
    assert [event.done for event in events] == [2, 3]


def test_incomplete_checkpoint_is_removed(undisturbed: tuple[Path, Tuned], tmp_path: Path) -> None:
    whole, log = half_done(tmp_path, 2, rows=ROWS, steps=STEPS), ProgressLog()
    torn = shutil.copytree(whole, whole.with_name("checkpoint-4"))
    (torn / COMPLETE).unlink()
    (torn / "optimizer.pt").write_bytes((whole / "optimizer.pt").read_bytes()[:100])
    alone(tmp_path, rows=ROWS, steps=STEPS, log=log)
    assert "training resumes at step 2 of 5" in log
    assert not torn.exists()
    assert largest_difference(tmp_path, undisturbed[0]) < 1e-5


def test_training_restarts_if_the_only_checkpoint_is_incomplete(
    undisturbed: tuple[Path, Tuned], tmp_path: Path
) -> None:
    log = ProgressLog()
    torn = tmp_path / "checkpoints" / "checkpoint-4"
    torn.mkdir(parents=True)
    (torn / "trainer_state.json").write_text("{", encoding="utf-8")
    alone(tmp_path, rows=ROWS, steps=STEPS, log=log)
    assert log.steps == [1, 2, 3, 4, 5]
    assert largest_difference(tmp_path, undisturbed[0]) == 0


def test_torch_reads_checkpoints_with_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half_done(tmp_path, 2, rows=ROWS, steps=STEPS)
    read: dict[str, object] = {}
    load = torch.load

    def loading(file: Any, *more: Any, **named: Any) -> Any:
        read[Path(file).name] = named.get("weights_only")
        return load(file, *more, **named)

    monkeypatch.setattr(torch, "load", loading)
    alone(tmp_path, rows=ROWS, steps=STEPS)
    assert read == {"optimizer.pt": True, "scheduler.pt": True, "rng_state.pth": True}


def test_pickle_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "harmed",)

    last = half_done(tmp_path, 2, rows=ROWS, steps=STEPS)
    torch.save({"state": Harm()}, last / "optimizer.pt")
    (last / "training_args.bin").write_bytes(pickle.dumps(Harm()))
    log = ProgressLog()
    assert alone(tmp_path, rows=ROWS, steps=STEPS, log=log).steps_now == STEPS
    assert any("Weights only load failed" in line and "restarts" in line for line in log)
    assert not (tmp_path / "harmed").exists()


def test_checkpoint_is_due_once_per_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthpost_dagster.training import checkpoints as module

    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    checkpoints = Checkpoints(tmp_path, 60)
    due = []
    for now in (100, 159, 160, 161, 219, 220):
        clock[0] = now
        due.append(checkpoints.is_due())
    assert due == [False, False, True, False, False, True]


def test_last_checkpoint_is_the_complete_one_with_the_highest_step(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "none", NEVER)
    assert checkpoints.last() is None
    for step in (9, 10, 100):
        place = tmp_path / "none" / f"checkpoint-{step}"
        place.mkdir(parents=True)
        if step != 100:
            (place / COMPLETE).touch()
    last = checkpoints.last()
    assert last is not None
    assert last.name == "checkpoint-10"
    assert {path.name for path in (tmp_path / "none").iterdir()} == {"checkpoint-9", "checkpoint-10"}
    checkpoints.remove()
    assert not (tmp_path / "none").exists()
    checkpoints.remove()


@pytest.mark.parametrize("name", [WEIGHTS, STATE, *OPTIMIZER])
@pytest.mark.parametrize("content", [None, b"", b"null"])
def test_checkpoint_without_a_file_is_faulty(whole: Path, tmp_path: Path, name: str, content: bytes) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    assert fault_of(copy) == ""
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    assert fault_of(copy)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return half_done(tmp_path_factory.mktemp("whole"), after=1, steps=3)


def test_unreadable_disk_keeps_the_checkpoint(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(whole.parent, tmp_path / "checkpoints")
    monkeypatch.setattr(torch, "load", lambda *given, **named: fail(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(StorageError, match=r"checkpoint-1: cannot be read \(Input/output error\); repair the disk"):
        alone(tmp_path, steps=3)
    assert (copy / "checkpoint-1" / COMPLETE).exists()


def test_damaged_checkpoint_is_removed_and_training_restarts(tmp_path: Path) -> None:
    undisturbed, spoilt = tmp_path / "undisturbed", tmp_path / "spoilt"
    alone(undisturbed, steps=3)
    last = half_done(spoilt, after=1, steps=3)
    (last / "optimizer.pt").write_bytes(b"")
    log = ProgressLog()
    tuned = alone(spoilt, steps=3, log=log)
    assert any("cannot be read" in line and "restarts" in line for line in log)
    assert tuned.curve["step"].tolist() == [1, 2, 3]
    assert largest_difference(spoilt, undisturbed) < 1e-5


def test_other_errors_keep_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = half_done(tmp_path, after=1, steps=3)
    with monkeypatch.context() as broken:
        broken.setattr(
            PaddingFreeTrainer, "training_step", lambda *given, **named: fail(RuntimeError("the GPU fell off"))
        )
        with pytest.raises(RuntimeError, match="the GPU fell off") as caught:
            alone(tmp_path, steps=3)
    assert caught.value.__notes__ == [f"Training resumed from {last}; delete that folder to restart it."]
    assert (last / COMPLETE).exists()
    assert alone(tmp_path, steps=3).steps_now == 2


def fail(error: Exception) -> None:
    raise error


def test_result_counts_only_the_steps_done_now(tmp_path: Path) -> None:
    half_done(tmp_path, after=2, steps=3)
    assert alone(tmp_path, steps=3).steps_now == 1
    assert alone(tmp_path / "other", steps=3).steps_now == 3


def test_full_disk_is_an_error_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(StorageError, match=r"checkpoints: cannot be written \(No space left on device\); free space"):
        alone(tmp_path, steps=3, seconds=ALWAYS)
