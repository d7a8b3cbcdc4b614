"""Profiles load with every mistake named, and `study: true` gives the study's own arguments."""

from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from synthpost_dagster import profiles
from synthpost_dagster.errors import SpecError
from synthpost_dagster.files.renamed_keys import RENAMED_KEYS
from synthpost_dagster.judging.judges import build_judges
from synthpost_dagster.llm.chat_models import Context
from synthpost_dagster.profiles import Profile, load_profile, packaged_profiles
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.opening import storage_root
from synthpost_dagster.tasks.spec import TaskSpec
from synthpost_dagster.tasks.task import Task

Write = Callable[..., str]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {
    "model": "meta-llama/Meta-Llama-3-8B-Instruct",
    "revision": COMMIT,
    "quantization": "nf4",
    "dtype": "bfloat16",
    "memory_gib": 10.0,
}
SAMPLING = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 64, "seed": 1}
HOSTED = {
    "backend": "openai",
    "endpoint": "own",
    "base_url": "http://127.0.0.1:8000/v1",
    "api_key": None,
    "model": "some/model",
    "revision": None,
    "sampling": SAMPLING,
    "max_tokens_as": "max_tokens",
    "structured_output": "none",
    "extra_body": {},
    "prices": None,
    "limits": {
        "concurrency": 1,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "timeout_seconds": 1,
        "max_request_attempts": 1,
        "max_retry_wait_seconds": 1,
    },
    "max_replies_per_row": 1,
}
IN_PROCESS = {
    "backend": "transformers",
    "model": {"model": "embedded", "revision": None, "quantization": "none", "dtype": "float32", "memory_gib": 0.5},
    "sampling": {**SAMPLING, "batch_size": 1},
    "max_replies_per_row": 1,
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A copy of the packaged profile `tiny` with changed keys (`a.b.c` goes inside); gives its path."""
    packaged = yaml.safe_load((profiles.FOLDER / "tiny.yaml").read_text(encoding="utf-8"))

    def make(**changes: Any) -> str:
        for dotted, value in changes.items():
            *way, last = dotted.split("__")
            here = packaged
            for part in way:
                here = here[part]
            here[last] = value
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(packaged), encoding="utf-8")
        return str(path)

    return make


@pytest.fixture
def study(write: Write, sales_posts: Task) -> Profile:
    return load_profile(write(study=True), sales_posts)


def test_every_packaged_profile_loads_for_the_packaged_task(sales_posts: Task) -> None:
    files = sorted(path.stem for path in Path(profiles.__file__).parent.rglob("*.y*ml"))
    assert "tiny" in files
    assert packaged_profiles() == files
    assert [load_profile(name, sales_posts).name for name in files] == files


def test_values_for_the_chat_template_keep_their_kind(write: Write, sales_posts: Task) -> None:
    given = {"enable_thinking": False, "reasoning_effort": "low", "budget": 0}
    found = load_profile(write(student__chat_template_kwargs=given), sales_posts).student.chat_template_kwargs
    assert {name: (type(value), value) for name, value in found.items()} == {
        name: (type(value), value) for name, value in given.items()
    }


def test_every_packaged_profile_opens_with_its_launch_command() -> None:
    for name in packaged_profiles():
        first = (profiles.FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        assert first == f"# synthpost run --profile {name}"


def test_default_profile_needs_no_key_network_or_gpu(sales_posts: Task) -> None:
    tiny = load_profile("tiny", sales_posts)
    assert [tiny.teacher.model.model, tiny.student.model] == ["embedded", "embedded"]
    assert (tiny.judges[0].backend, tiny.device.device) == ("rubric", "cpu")


def test_unknown_profile_lists_packaged_profiles_and_the_setting(sales_posts: Task) -> None:
    with pytest.raises(SpecError, match=r"profile 'no_such'.*tiny.*SYNTHPOST_PROFILE"):
        load_profile("no_such", sales_posts)


def test_pinned_hub_model_and_a_folder_are_accepted(write: Write, sales_posts: Task) -> None:
    assert load_profile(write(student=HUB), sales_posts).student.revision == COMMIT
    folder = {**HUB, "model": "./models/mine", "revision": None}
    assert load_profile(write(student=folder), sales_posts).student.model == "./models/mine"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": {**HUB, "revision": None}}, ["student:", "needs a revision", "40-digit commit"]),
        ({"student": {**HUB, "revision": "main"}}, ["student.revision:"]),
        ({"student__revision": COMMIT}, ["student:", "is not a hub name", "set it to null"]),
        (
            {"student__chat_template_kwargs": {"messages": "x"}},
            ["student.chat_template_kwargs:", "messages cannot be set"],
        ),
        ({"student__chat_template_kwargs": {"enable thinking": 1}}, ["student.chat_template_kwargs"]),
        ({"teacher__model": {**HUB, "revision": None}}, ["teacher.model:", "needs a revision"]),
        ({"student__model": "gpt2"}, ["student.model:"]),
        ({"training__micro_batch": 3}, ["training:", "micro_batch 3 does not divide rows_per_step 8"]),
        (
            {"sweep__data_sizes": [88, 17601]},
            ["sweep.data_sizes: 17601 is more than the 17600 training prompts", "lower it"],
        ),
        (
            {"sweep__steps": [50, "100-epoch"]},
            ["sweep.steps: '100-epoch' is neither a number of steps nor `<k>-epoch`"],
        ),
        ({"sweep__data_sizes": [88, 176, 176]}, ["sweep.data_sizes:", "different and ascending"]),
        ({"sweep__steps": [50, 50]}, ["sweep.steps:", "a length of training is named twice"]),
        ({"sweep__steps": ["50"]}, ["sweep.steps: '50' is neither a number of steps nor `<k>-epoch`"]),
        ({"evaluation_prompts": 3521}, ["evaluation_prompts: 3521 is more than the 3520", "holdout", "lower it"]),
        ({"training__learning_rte": 1.0}, ["unknown key training.learning_rte"]),
        ({"judges": [{"backend": "oracle"}]}, ["judges"]),
        ({"judges": []}, ["judges:"]),
        ({"judges": [{"backend": "rubric"}] * 2}, ["judges: rubric is named twice", "remove one"]),
        (
            {"judges": [{**HOSTED, "max_replies_per_row": attempts} for attempts in (1, 2)]},
            ["judges: own/some/model is named twice", "remove one or give it another `endpoint`"],
        ),
        (
            {"judges": [{**IN_PROCESS, "max_replies_per_row": attempts} for attempts in (1, 2)]},
            ["judges: transformers/embedded is named twice", "remove one"],
        ),
        ({"sweep__more_seeds": [7, 7]}, ["sweep.more_seeds:", "a level is named twice"]),
        ({"sweep__more_seeds": [3407]}, ["sweep.more_seeds: 3407 is training.seed already"]),
        ({"control_temperature": 0}, ["control_temperature:"]),
        ({"predictions__temperature": -1}, ["predictions.temperature:"]),
        ({"storage": "  "}, ["storage: an empty path"]),
    ],
)
def test_wrong_key_is_named_with_its_file(
    write: Write, sales_posts: Task, changes: dict[str, Any], said: list[str]
) -> None:
    path = write(**changes)
    with pytest.raises(SpecError) as caught:
        load_profile(path, sales_posts)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert [part for part in said if part not in message] == []


def test_panel_may_have_one_model_under_two_endpoints(write: Write, sales_posts: Task, context: Context) -> None:
    panel = [{"backend": "rubric"}, IN_PROCESS, HOSTED, {**HOSTED, "endpoint": "other"}]
    profile = load_profile(write(judges=panel, budget=None), sales_posts)
    names = ["rubric", "transformers/embedded", "own/some/model", "other/some/model"]
    assert [spec.name for spec in profile.judges] == names
    assert [judge.name for judge in build_judges(sales_posts, profile, context, may_tie=True)] == names


def test_profile_may_name_other_levels_than_the_task(write: Write, sales_posts: Task) -> None:
    other = write(sweep__data_sizes=[88, 100], sweep__steps=[50, "2-epoch"], evaluation_prompts=3520)
    profile = load_profile(other, sales_posts)
    assert (profile.sweep.data_sizes, profile.sweep.steps) == ((88, 100), (50, "2-epoch"))
    assert profile.evaluation_prompts == 3520 > sales_posts.spec.evaluation.prompts


@pytest.mark.parametrize(
    ("storage", "root"),
    [
        (None, "/home/me/study/storage"),
        ("shelf/one", "/home/me/study/shelf/one"),
        ("/mnt/shelf", "/mnt/shelf"),
        ("s3://bucket/shelf", "s3://bucket/shelf"),
    ],
)
def test_relative_storage_counts_from_the_home(write: Write, sales_posts: Task, storage: str | None, root: str) -> None:
    settings = Settings(home=Path("/home/me/study"), task="sales_posts", profile="mine")
    assert storage_root(load_profile(write(storage=storage), sales_posts), settings) == root


def test_without_study_the_files_own_arguments_stand(write: Write, sales_posts: Task) -> None:
    profile = load_profile(write(training__learning_rate=0.5, evaluation_prompts=110), sales_posts)
    assert (profile.training.learning_rate, profile.evaluation_prompts) == (0.5, 110)
    assert (profile.training.loss, profile.training.system_prompt) == ("completion", False)


def test_study_overrides_training_arguments_of_the_file(study: Profile) -> None:
    training = study.training
    assert (training.lora.r, training.lora.alpha, training.lora.dropout, training.lora.bias) == (16, 16, 0.0, "none")
    assert set(training.lora.target_modules) == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert training.optimizer == "adamw_8bit"
    assert training.learning_rate == 2e-4
    assert training.scheduler == "linear"
    assert training.warmup_steps == 5
    assert training.weight_decay == 0.01
    assert training.rows_per_step == 8
    assert training.seed == 3407
    assert training.max_length == 2048
    assert training.packing is False
    assert training.loss == "full"
    assert training.system_prompt is True
    assert study.evaluation_prompts == 95
    assert study.predictions.max_new_tokens == 500


def test_study_keeps_other_keys_of_the_file(study: Profile, sales_posts: Task) -> None:
    tiny = load_profile("tiny", sales_posts)
    assert (study.teacher, study.student, study.device, study.sweep) == (
        tiny.teacher,
        tiny.student,
        tiny.device,
        tiny.sweep,
    )


def test_layout_and_checkpoint_interval_do_not_shape_adapters(write: Write, sales_posts: Task) -> None:
    plain = load_profile(write(), sales_posts).training
    changes = {
        "training__micro_batch": 2,
        "training__gradient_checkpointing": True,
        "training__padding_free": False,
        "training__compile": True,
        "training__checkpoint_seconds": 5,
    }
    laid_out = load_profile(write(**changes), sales_posts).training
    assert laid_out != plain
    assert laid_out.shaping == plain.shaping
    others = ({"learning_rate": 1.0}, {"loss": "full"}, {"rows_per_step": 4}, {"trainer": "unsloth"}, {"seed": 1})
    assert all(plain.model_copy(update=change).shaping != plain.shaping for change in others)


@pytest.mark.parametrize("change", [{"trainer": "unsloth"}, {"padding_free": False}, {"lora__dropout": 0.1}])
def test_float8_requires_trl_padding_free_and_all_projections(
    write: Write, sales_posts: Task, change: dict[str, object]
) -> None:
    assert load_profile(write(training__precision="float8"), sales_posts).training.precision == "float8"
    changes = {"training__precision": "float8", **{f"training__{key}": value for key, value in change.items()}}
    with pytest.raises(SpecError, match=r"float8 needs trainer: trl, padding_free: true and lora.dropout: 0"):
        load_profile(write(**changes), sales_posts)


def test_products_in_8_bits_want_adapters_on_all_projections(write: Write, sales_posts: Task) -> None:
    changes = {
        "training__precision": "float8",
        "training__lora__target_modules": ["q_proj", "v_proj", "o_proj", "up_proj"],
    }
    with pytest.raises(SpecError, match=r"needs adapters on all projections; add down_proj, gate_proj, k_proj"):
        load_profile(write(**changes), sales_posts)


def test_packed_rows_which_would_see_each_other_are_refused(write: Write, sales_posts: Task) -> None:
    with pytest.raises(
        SpecError, match=r"packing: rows packed into one sequence would attend to each other; set it to false"
    ):
        load_profile(write(training__packing=True), sales_posts)


@pytest.mark.parametrize(("old", "new"), sorted(RENAMED_KEYS.items()))
def test_renamed_key_is_refused_with_its_new_name(write: Write, sales_posts: Task, old: str, new: str) -> None:
    *_, section, key = old.split(".")
    model = {**HOSTED, "limits": dict(HOSTED["limits"])}
    sections = {"teacher": model, "judges": model, "limits": model["limits"]}
    changed = sections.get(section)
    if changed is None:
        path = write(**{f"{section}__{key}": 1})
    else:
        changed[key] = changed.pop(new)
        path = write(**({"judges": [model]} if section == "judges" else {"teacher": model}), budget=None)
    with pytest.raises(SpecError) as caught:
        load_profile(path, sales_posts)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: ")
    assert f".{key} is now called {new}" in line


def test_every_key_of_profiles_and_tasks_has_a_description() -> None:
    seen: set[type[BaseModel]] = set()
    waiting: list[Any] = [Profile, TaskSpec]
    missing = []
    while waiting:
        kind = waiting.pop()
        waiting += typing.get_args(kind)
        if not isinstance(kind, type) or not issubclass(kind, BaseModel) or kind in seen:
            continue
        seen.add(kind)
        for name, field in kind.model_fields.items():
            waiting.append(field.annotation)
            missing += [] if field.description else [f"{kind.__name__}.{name}"]
    assert len(seen) > 20
    assert missing == []
