"""Matching a model with the names that an endpoint lists."""

from __future__ import annotations

import pytest

from synthpost_dagster.llm.model_check import spelling_of


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        ("my-model", "my-model"),
        ("my-model", "my-model:latest"),
        ("my-model:latest", "my-model"),
        ("my-model", "models/my-model"),
        ("my-model", "vendor/my-model"),
        ("vendor/my-model", "my-model"),
        ("Vendor/My-Model", "vendor/my-model"),
        ("my-model", "/srv/gguf/my-model.gguf"),
    ],
)
def test_known_spellings_of_a_model_are_matched(model: str, listed: str) -> None:
    assert spelling_of(model, ["another", listed]) == listed


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        ("my-model", "my-model-2"),
        ("my-model", "my-model:7b"),
        ("vendor/my-model", "other/my-model"),
        ("my-model", "vendor/not-my-model"),
        ("vendor/my-model", "vendor/my-model:free"),
    ],
)
def test_names_of_other_models_are_not_matched(model: str, listed: str) -> None:
    assert spelling_of(model, [listed]) is None


def test_exact_name_is_preferred_to_other_spellings() -> None:
    assert spelling_of("my-model", ["my-model:latest", "vendor/my-model", "my-model"]) == "my-model"
