"""Loading models: effects on the process, files that are never loaded, generation configuration and identity."""

from __future__ import annotations

import ast
import contextlib
import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from synthpost_dagster.embedded import MODEL_FOLDER
from synthpost_dagster.errors import ModelError
from synthpost_dagster.inference import models
from synthpost_dagster.inference.engine import Request, engine
from synthpost_dagster.inference.generate import chat, generate
from synthpost_dagster.profiles.models import ModelSpec, Sampling
from synthpost_dagster.runtime.progress import SILENT
from synthpost_dagster.text.reasoning import split_reasoning
from tests.helpers.tuning import CPU, STUDENT


def test_libraries_are_frozen_once_and_models_are_collected() -> None:
    gc.unfreeze()
    models._freeze_libraries.cache_clear()
    first = models.load(STUDENT, CPU)
    aside = gc.get_freeze_count()
    second = models.load(STUDENT, CPU)
    assert aside > 100_000, "torch and transformers have more"
    assert gc.get_freeze_count() <= aside
    gone = [weakref.ref(loaded.model) for loaded in (first, second)]
    for ref in gone:
        ref().itself = ref()  # type: ignore[union-attr] - a cycle that only the collector finds
    del first, second
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model."""
    return shutil.copytree(MODEL_FOLDER, tmp_path / "model")


def spec_of(folder: Path) -> ModelSpec:
    return STUDENT.model_copy(update={"model": str(folder)})


def edit(file: Path, **changes: object) -> None:
    """Changes keys of a JSON file; None removes one."""
    content = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def plant_code(folder: Path, file: str, **keys: object) -> Path:
    """Code in the model's folder that creates a file when it runs, and a configuration that names it."""
    mark = folder / "it_ran"
    (folder / "planted.py").write_text(f"open({str(mark)!r}, 'w')\nclass Planted: pass\n", encoding="utf-8")
    edit(folder / file, **keys)
    return mark


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "planted.Planted", "AutoModelForCausalLM": "planted.Planted"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["planted.Planted", "planted.Planted"]}}),
    ],
)
def test_code_beside_a_known_model_is_neither_run_nor_asked_about(
    folder: Path, monkeypatch: pytest.MonkeyPatch, file: str, keys: dict[str, object]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    mark = plant_code(folder, file, **keys)
    assert models.load(spec_of(folder), CPU).model.config.model_type == "llama"
    assert not mark.exists()
    assert asked == []


def test_model_that_needs_code_of_its_own_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    keys = {"AutoConfig": "planted.Planted", "AutoModelForCausalLM": "planted.Planted"}
    mark = plant_code(folder, "config.json", model_type="planted", auto_map=keys)
    for look in (models.load_tokenizer, models.generation_config, lambda spec: models.load(spec, CPU)):
        (folder / "generation_config.json").unlink(missing_ok=True)
        with contextlib.suppress(ModelError):
            look(spec_of(folder))
    with pytest.raises(ModelError, match=r"needs code of its own .* never run"):
        models.load(spec_of(folder), CPU)
    assert not mark.exists()
    assert asked == []


def test_every_loading_in_the_package_refuses_code() -> None:
    package = Path(models.__file__).parents[1]
    scripts = package.parent / "scripts"
    calls = [
        (path.name, ast.unparse(node))
        for path in [*package.rglob("*.py"), *scripts.rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("from_pretrained")
        and ast.unparse(node.func) not in ("GenerationConfig.from_pretrained", "PeftModel.from_pretrained")
    ]
    assert len(calls) >= 5
    assert [call for call in calls if "NO_CODE" not in call[1] and "trust_remote_code=False" not in call[1]] == []
    assert models.NO_CODE == {"trust_remote_code": False}


def test_missing_tensor_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    gone = "model.layers.1.mlp.up_proj.weight"
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"lack 1 tensors, such as {gone}"):
        models.load(spec_of(folder), CPU)


def test_adapter_beside_a_model_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "other/model"}', encoding="utf-8")
    with pytest.raises(ModelError, match="has a model and an adapter"):
        models.load_tokenizer(spec_of(folder))


def test_adapter_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors there"):
        models.load_adapter(models.Loaded(None, None), tmp_path)


SAMPLING = Sampling(temperature=0, top_p=1, max_new_tokens=24, batch_size=2, seed=1)
SAID = {"repetition_penalty": 1.9, "no_repeat_ngram_size": 2, "top_k": 3, "temperature": 0.1, "do_sample": True}
CHATS = [chat("Write a sales post."), chat("Write a long post about boots.")]


def texts_of(loaded: models.Loaded, sampling: Sampling) -> tuple[list[str], list[str]]:
    """The replies of `generate` and of the engine."""
    plain = [one.text for one in generate(loaded, CHATS, sampling, SILENT, "posts")]
    requests = [Request(turns, None, 1) for turns in CHATS]
    with engine(loaded, [], sampling) as running:
        answers = dict(running.answer(requests, SILENT, "posts"))
    return plain, [answers[place].text for place in range(len(CHATS))]


def test_sampling_of_a_generation_config_is_ignored_and_named(folder: Path) -> None:
    expected = texts_of(models.load(STUDENT, CPU), SAMPLING)
    edit(folder / "generation_config.json", **SAID)
    loaded = models.load(spec_of(folder), CPU)
    assert texts_of(loaded, SAMPLING) == expected
    assert expected[0] == expected[1]
    assert loaded.ignored == SAID


def test_every_end_token_ends_replies_of_engine_and_generate(folder: Path) -> None:
    loaded = models.load(STUDENT, CPU)
    whole = texts_of(loaded, SAMPLING)[0]
    ids = [loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in whole]
    edit(folder / "generation_config.json", eos_token_id=[2, ids[0][5]])
    stopped = models.load(spec_of(folder), CPU)
    assert models.ends_of(stopped.model.generation_config, stopped.tokenizer) == {2, 3, ids[0][5]}
    first, second = texts_of(stopped, SAMPLING)
    assert first == second
    assert whole[0].startswith(first[0])
    assert len(first[0]) < len(whole[0])


@pytest.mark.parametrize("there", [True, False])
def test_end_tokens_are_known_without_the_weights(folder: Path, there: bool) -> None:
    edit(folder / "generation_config.json", eos_token_id=[3, 7])
    edit(folder / "config.json", eos_token_id=[3, 8])
    if not there:
        (folder / "generation_config.json").unlink()
    (folder / "model.safetensors").unlink()
    given, tokenizer = models.generation_config(spec_of(folder)), models.load_tokenizer(spec_of(folder))
    assert models.ends_of(given, tokenizer) == {3, 7 if there else 8}


def test_identity_follows_the_chat_template_arguments(folder: Path) -> None:
    spec = spec_of(folder)
    given = spec.model_copy(update={"chat_template_kwargs": {"enable_thinking": False}})
    assert models.identity(given) != models.identity(spec)
    assert models.identity(given)["chat_template_kwargs"] == {"enable_thinking": False}
    assert models.identity(spec)["template_date"] == "2025-01-01"


def test_text_begins_with_the_reasoning_tag_that_the_prompt_opens(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    opened = file.read_text(encoding="utf-8") + r"{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    file.write_text(opened, encoding="utf-8")
    plain, mixed = texts_of(models.load(spec_of(folder), CPU), SAMPLING)
    assert plain == mixed
    assert all(text.startswith("<think>\n") for text in plain)
    assert {split_reasoning(text).text for text in plain} == {""}
