"""The model in the package: small, without pickle, and made for the packaged task."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.embedded import CONTENT, MODEL_FOLDER
from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference.content import folder_digest
from synthpost_dagster.inference.models import check_suits_task, identity
from synthpost_dagster.profiles.models import ModelSpec
from synthpost_dagster.tasks.task import Task

EditTask = Callable[[str, Callable[[dict[str, Any]], object]], Task]
EMBEDDED = ModelSpec(model="embedded", revision=None, quantization="none", dtype="float32", memory_gib=1.0)
HUB = ModelSpec(model="owner/name", revision="0" * 40, quantization="none", dtype="float32", memory_gib=1.0)


def test_the_model_is_at_most_8_mb() -> None:
    sizes = {path.name: path.stat().st_size for path in MODEL_FOLDER.rglob("*") if path.is_file()}
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md", "config.json"} <= set(sizes)
    assert 1_000_000 < sum(sizes.values()) <= 8_000_000


def test_no_file_of_the_model_is_a_pickle() -> None:
    for path in MODEL_FOLDER.rglob("*"):
        assert path.suffix in (".safetensors", ".json", ".jinja", ".md")
        # A zip archive or a pickle, whatever its name.
        assert path.read_bytes()[:2] not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def test_the_model_was_trained_on_the_packaged_tasks_wording(sales_posts: Task) -> None:
    known = json.loads((MODEL_FOLDER / "synthpost.json").read_text(encoding="utf-8"))
    assert known["wording_fingerprint"] == sales_posts.wording_fingerprint
    check_suits_task(EMBEDDED, sales_posts, is_allowed=False)


def test_other_items_and_other_checks_suit_the_model(edit_task: EditTask) -> None:
    task = edit_task("task.yaml", lambda content: content["criteria"]["hook"]["check"].update(max_words=3))
    check_suits_task(EMBEDDED, task, is_allowed=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda task: task["criteria"]["hook"].update(text="Open with a bang."),
        lambda task: task["factors"]["tone"]["levels"].append("Grumpy"),
        lambda task: task["lengths"]["short"].update(max=2),
        lambda task: task["factors"]["post_type"]["levels"].update(Advert={"length": "short"}),
        lambda task: task["factors"]["post_type"]["levels"]["Question"].update(length="long"),
    ],
)
def test_a_task_with_other_wording_is_refused_unless_it_is_allowed(
    edit_task: EditTask, change: Callable[[dict[str, Any]], object]
) -> None:
    task = edit_task("task.yaml", change)
    with pytest.raises(ModelError) as caught:
        check_suits_task(EMBEDDED, task, is_allowed=False)
    assert str(task.folder) in str(caught.value)
    assert "allow_untrained_task: true" in str(caught.value)
    check_suits_task(EMBEDDED, task, is_allowed=True)
    check_suits_task(HUB, task, is_allowed=False)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_task_with_another_template_is_refused(small_task: Task, role: str) -> None:
    small_task.sources[role] += "\nPlease."
    with pytest.raises(ModelError, match="not trained on the templates"):
        check_suits_task(EMBEDDED, small_task, is_allowed=False)


def test_a_model_is_known_by_what_it_holds(tmp_path: Path) -> None:
    folder = shutil.copytree(MODEL_FOLDER, tmp_path / "copy")
    spec = EMBEDDED.model_copy(update={"model": str(folder)})
    before = identity(spec)
    assert identity(spec.model_copy(update={"dtype": "bfloat16"})) != before
    assert identity(spec.model_copy(update={"memory_gib": 9.0})) == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert identity(spec)["content"] != before["content"]


def test_a_hub_model_is_known_by_its_commit() -> None:
    assert identity(HUB)["revision"] == "0" * 40
    assert identity(HUB) != identity(HUB.model_copy(update={"revision": "1" * 40}))


def test_packaged_model_has_another_name_when_a_file_of_it_changes() -> None:
    assert (CONTENT, folder_digest(MODEL_FOLDER)) == ("90efd5facbe7cf8b", "2dfe8e7de5e4f439"), "choose another CONTENT"
    assert identity(EMBEDDED)["content"] == CONTENT
