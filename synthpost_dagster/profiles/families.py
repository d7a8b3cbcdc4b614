"""The family of a model, by its name. Judges favour posts of their own family."""

from synthpost_dagster.profiles.models import InProcessChat, JudgeSpec, ModelSpec, RubricJudge

FAMILIES = (
    "llama", "gpt", "qwen", "gemma", "gemini", "mistral", "mixtral", "claude", "deepseek", "phi", "smollm", "granite",
    "command", "kimi", "glm", "embedded",
)  # fmt: skip
"""Parts of models' names; the first that occurs is the family."""
RUBRIC = "rubric"


def family_of(spec: ModelSpec | JudgeSpec) -> str:
    """The family of a model, `rubric` for the rubric; empty if unknown."""
    if isinstance(spec, RubricJudge):
        return RUBRIC
    name = spec.model.model if isinstance(spec, InProcessChat) else spec.model
    return next((family for family in FAMILIES if family in name.lower()), "")
