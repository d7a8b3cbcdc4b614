"""Reads profile files, packaged or a user's own, and checks them against the task."""

from pathlib import Path
from typing import Any

from synthpost_dagster.errors import SpecError
from synthpost_dagster.files.yaml_files import Document, combined, read_document, record_of
from synthpost_dagster.profiles.spec import STUDY_EVALUATION_PROMPTS, STUDY_TRAINING, Profile
from synthpost_dagster.tasks.loading import load_task
from synthpost_dagster.tasks.task import Task

FOLDER = Path(__file__).parent


def load_profile(name: str, task: Task) -> Profile:
    """The packaged profile of that name, or the YAML file of that path, checked against the task.

    `study: true` puts the study's training arguments, 95 evaluation prompts and 500 new tokens in place of the
    file's own. A file that says `extends: NAME` is laid over that profile, key by key; where a mapping names another
    `backend`, it takes the whole place. Raises SpecError naming file, key and remedy.
    """
    path, profile = _path(name), read_profile(name)
    if profile.study:
        profile = profile.model_copy(
            update={
                "training": STUDY_TRAINING.model_copy(update={"trainer": profile.training.trainer}),
                "evaluation_prompts": STUDY_EVALUATION_PROMPTS,
                "predictions": profile.predictions.model_copy(update={"max_new_tokens": 500}),
            }
        )
    if problems := _sweep_problems(path, profile, task):
        raise combined(problems)
    return profile


def read_profile(name: str) -> Profile:
    """The profile's file as it is written, not yet checked against a task; raises as `load_profile`."""
    path = _path(name)
    documents = _documents(path)
    content: dict[str, Any] = {}
    for document in reversed(documents):
        content = _laid_over(content, {key: value for key, value in document.content.items() if key != "extends"})
    return record_of(content, documents, Profile)


def load_task_and_profile(task: str, profile: str) -> tuple[Task, Profile]:
    """Both, by name or path. Raises SpecError with all that is wrong in the files of either."""
    try:
        loaded = load_task(task)
    except SpecError as error:
        problems = [error]
        try:
            read_profile(profile)
        except SpecError as other:
            problems.append(other)
        raise combined(problems) from None
    return loaded, load_profile(profile, loaded)


def packaged_profiles() -> list[str]:
    """Names of the profiles that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _path(name: str) -> Path:
    if name in packaged_profiles():
        return FOLDER / f"{name}.yaml"
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    raise SpecError(
        f"profile {name!r}: neither a packaged profile ({', '.join(packaged_profiles())}) nor a YAML file; "
        "correct SYNTHPOST_PROFILE or --profile"
    )


def _documents(path: Path) -> list[Document]:
    """The file, that which it extends, and so on."""
    found = [read_document(path)]
    while (base := found[-1].content.get("extends")) is not None:
        here = found[-1].path
        if not isinstance(base, str):
            raise SpecError(f"{here}: extends: {base!r} is no name of a profile; write one in quotes")
        try:
            path = _path(base)
        except SpecError:
            names = ", ".join(packaged_profiles())
            problem = f"{base!r} is neither a packaged profile ({names}) nor a YAML file"
            raise SpecError(f"{here}: extends: {problem}; correct it") from None
        if path in [document.path for document in found]:
            raise SpecError(f"{here}: extends: the profile extends itself; name another")
        found.append(read_document(path))
    return found


def _laid_over(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            is_other = value.get("backend", old.get("backend")) != old.get("backend")
            merged[key] = value if is_other else _laid_over(old, value)
        else:
            merged[key] = value
    return merged


def _sweep_problems(path: Path, profile: Profile, task: Task) -> list[SpecError]:
    found = []
    for key in ("data_sizes", "steps"):
        levels = [str(level) for level in getattr(task.spec.sweep, key)]
        for level in getattr(profile.sweep, key):
            if str(level) not in levels:
                found.append(
                    SpecError(
                        f"{path}: sweep.{key}: {level} is none of the task's levels ({', '.join(levels)}); "
                        f"add it to {task.folder / 'task.yaml'} or choose another"
                    )
                )
    if profile.evaluation_prompts is not None and profile.evaluation_prompts > task.spec.evaluation.prompts:
        found.append(
            SpecError(
                f"{path}: evaluation_prompts: {profile.evaluation_prompts} is more than the task's "
                f"{task.spec.evaluation.prompts}; lower it or raise evaluation.prompts in {task.folder / 'task.yaml'}"
            )
        )
    return found
