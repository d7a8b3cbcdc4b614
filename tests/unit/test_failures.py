"""The first Synthpost error of a failed run is reported with its details; the command line prints both."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from dagster_shared.error import SerializableErrorInfo

from synthpost_dagster import cli
from synthpost_dagster.artifacts.store import writing
from synthpost_dagster.errors import DeviceError, GateFailed, ModelError, SynthpostError
from synthpost_dagster.orchestration.failures import Why, why


def kept_of(work: Callable[[], object]) -> SerializableErrorInfo:
    """The error of the work as Dagster keeps it, within its own error of the step."""
    try:
        try:
            work()
        except Exception as error:
            raise RuntimeError("Error occurred while executing op") from error
    except RuntimeError as error:
        return SerializableErrorInfo.from_traceback(traceback.TracebackException.from_exception(error))
    raise AssertionError("the work did not fail")


def fail_to_write(number: int) -> Callable[[], None]:
    def work() -> None:
        with writing(Path("/home/tmp")):
            raise OSError(number, "the system's words")

    return work


def raise_from(error: Exception, cause: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error from cause

    return work


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_full_and_read_only_storage_name_place_and_remedy(number: int) -> None:
    sentence = why(kept_of(fail_to_write(number))).sentence
    assert sentence == "/home/tmp: cannot be written (the system's words); free space, or set SYNTHPOST_HOME"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ModelError("/m: the weights are damaged; copy them again"), ValueError("header too large")),
        (DeviceError("the CPU has too little memory; lower batch_size"), MemoryError("tried to allocate")),
        (SynthpostError("place and remedy"), OSError(28, "No space left on device")),
    ],
)
def test_synthpost_error_is_reported_instead_of_its_cause(error: Exception, cause: Exception) -> None:
    assert why(kept_of(raise_from(error, cause))).sentence == str(error)


def test_first_of_two_synthpost_errors_is_reported() -> None:
    inner = ModelError("the inner one")
    assert why(kept_of(raise_from(DeviceError("the outer one"), inner))).sentence == "the outer one"


def test_synthpost_error_within_another_library_is_found() -> None:
    assert why(kept_of(raise_from(ValueError("library"), ModelError("ours")))).sentence == "ours"


def test_root_cause_is_reported_without_a_synthpost_error() -> None:
    assert why(kept_of(raise_from(ValueError("outer"), KeyError("root")))).sentence == "KeyError: 'root'"


def test_class_of_the_same_name_elsewhere_is_not_a_synthpost_error() -> None:
    class StorageError(Exception):
        """Another library's."""

    found = why(kept_of(raise_from(ValueError("outer"), StorageError("theirs")))).sentence
    assert found.endswith("StorageError: theirs")


def test_details_are_kept_apart_from_the_sentence() -> None:
    def work() -> None:
        raise GateFailed("rows: 2 of 3; raise it", details=["reasons: 2 a", "example: “b”"])

    assert why(kept_of(work)) == Why("rows: 2 of 3; raise it", ("reasons: 2 a", "example: “b”"))


def test_interrupt_stays_an_interrupt() -> None:
    def work() -> None:
        raise ModelError("while stopping") from KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        why(kept_of(work))


def test_command_line_prints_details_under_the_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise GateFailed("rows: 2 of 3; raise it", details=["reasons: 2 a", "example: “b”"])

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        cli.entry()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "synthpost: rows: 2 of 3; raise it\n  reasons: 2 a\n  example: “b”\n"
