"""A sweep that meets a damaged artifact sets it aside and makes it again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from synthpost_dagster.runtime.progress import Event, subscribed
from tests.helpers.small_study import CELLS, SmallStudy, done


def artifact(study: SmallStudy, asset: str, partition: str = "all") -> Path:
    """The folder of the one artifact of an asset and partition that counts."""
    folders = (study.home / "storage" / asset / partition).iterdir()
    (found,) = [path for path in folders if not path.name.startswith("damaged-")]
    return found


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))


def aside(study: SmallStudy, asset: str, partition: str = "all") -> list[str]:
    """Names of what was set aside."""
    return [path.name for path in (study.home / "storage" / asset / partition).glob("damaged-*")]


def without(study: SmallStudy, asset: str, partition: str) -> None:
    shutil.rmtree(study.home / "storage" / asset / partition)


def test_damage_that_a_cell_reads_is_repaired_in_the_same_sweep(changeable: SmallStudy) -> None:
    flip_a_byte(artifact(changeable, "baseline_predictions") / "baseline_predictions.parquet")
    before = changeable.recorded("baseline_predictions")
    without(changeable, "verdicts", "8_3")
    notes: list[Event] = []
    with subscribed(notes.append):
        runs = changeable.sweep("8|3")
    assert [run.status for run in runs if run.job == "sweep"] == ["FAILURE", "SUCCESS"]
    assert done("upstream") in runs
    assert len(aside(changeable, "baseline_predictions")) == 1
    assert changeable.recorded("baseline_predictions") == before
    assert [event for event in notes if "baseline_predictions.parquet: differs from its manifest" in event.what]
    assert changeable.sweep("8|3") == []


@pytest.mark.parametrize(
    ("asset", "partition", "file"),
    [("synthetic_rows", "all", "synthetic_rows.parquet"), ("adapters", "8_3", "adapter_model.safetensors")],
)
def test_damaged_table_or_adapter_is_made_again_with_the_same_content(
    changeable: SmallStudy, asset: str, partition: str, file: str
) -> None:
    whole = (artifact(changeable, asset, partition) / file).read_bytes()
    flip_a_byte(artifact(changeable, asset, partition) / file)
    without(changeable, "predictions", "8_3")
    changeable.sweep("8|3")
    assert len(aside(changeable, asset, partition)) == 1
    assert (artifact(changeable, asset, partition) / file).read_bytes() == whole
    assert changeable.sweep("8|3") == []


def test_overwritten_page_is_written_again(changeable: SmallStudy) -> None:
    page = changeable.home / "report" / "index.html"
    whole = page.read_bytes()
    page.write_text("overwritten", encoding="utf-8")
    assert changeable.sweep(*CELLS) == [done("report")]
    assert page.read_bytes() == whole
    assert changeable.sweep(*CELLS) == []


def test_damaged_report_table_is_made_again(changeable: SmallStudy) -> None:
    flip_a_byte(artifact(changeable, "ratio_report") / "ratio_report.parquet")
    (changeable.home / "report" / "ratios.csv").unlink()
    assert changeable.sweep(*CELLS) == [done("report")]
    assert len(aside(changeable, "ratio_report")) == 1
    assert changeable.sweep(*CELLS) == []


def test_facts_changed_by_hand_never_reach_the_page(changeable: SmallStudy) -> None:
    manifest = artifact(changeable, "adapters", "8_3") / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    start = text.index('"wall_seconds": ') + len('"wall_seconds": ')
    manifest.write_text(f"{text[:start]}12345{text[start:]}", encoding="utf-8")
    changeable.sweep("8|3")
    assert len(aside(changeable, "adapters", "8_3")) == 1
    assert "12345" not in (artifact(changeable, "adapters", "8_3") / "manifest.json").read_text(encoding="utf-8")
