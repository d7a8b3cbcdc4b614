"""The family of a model, as far as its name tells it: judges favour posts of their own family."""

from __future__ import annotations

from synthpost_dagster.profiles.models import InProcessChat, JudgeSpec, ModelSpec, RubricJudge

FAMILIES = (
    "llama",
    "gpt",
    "qwen",
    "gemma",
    "gemini",
    "mistral",
    "mixtral",
    "claude",
    "deepseek",
    "phi",
    "smollm",
    "granite",
    "command",
    "kimi",
    "glm",
    "embedded",
)
"""Sought in a model's name, the first that is found."""
RUBRIC = "rubric"


def family_of(spec: ModelSpec | JudgeSpec) -> str:
    """The family of a model; empty where its name tells none, `rubric` for the criteria on text."""
    if isinstance(spec, RubricJudge):
        return RUBRIC
    name = spec.model.model if isinstance(spec, InProcessChat) else spec.model
    return next((family for family in FAMILIES if family in name.lower()), "")
