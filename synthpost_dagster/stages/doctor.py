"""Checks before a run: one finding for each requirement, with its remedy."""

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from synthpost_dagster.artifacts.store import writing
from synthpost_dagster.errors import DeviceError, EndpointError, ModelError, StorageError, SynthpostError
from synthpost_dagster.inference.generate import chat
from synthpost_dagster.inference.models import (
    check_files,
    check_suits_task,
    ends_of,
    generation_config,
    ignored_sampling,
    load_tokenizer,
)
from synthpost_dagster.inference.templates import ChatTemplate, check_template
from synthpost_dagster.llm.chat_models import Context, Work, ask_for, chat_model
from synthpost_dagster.llm.client import HostedModel
from synthpost_dagster.llm.journal import Journal
from synthpost_dagster.llm.model_check import Checked
from synthpost_dagster.profiles.models import HostedChat, InProcessChat, ModelSpec
from synthpost_dagster.quality.explanations import reason_remedy, shortened
from synthpost_dagster.rows.prompts import evaluation_prompts
from synthpost_dagster.rows.rejection import clean_reply
from synthpost_dagster.rows.synthesis import ROWS
from synthpost_dagster.runtime.devices import free_gib
from synthpost_dagster.runtime.progress import SILENT
from synthpost_dagster.settings import probe_writing, secret
from synthpost_dagster.stages.study import Study
from synthpost_dagster.tasks.prompting import briefs_by_id, render_prompt

GIB = 1024**3
MIN_DISK_GIB = 2.0
"""Enough for tables, the journal and a few adapters."""
SAMPLE_PROMPTS = 3
"""Prompts that are rendered in a model's chat template."""
PROBE = b"synthpost doctor"


class Finding(NamedTuple):
    """What was checked, whether it passed, and the result; the remedy where it did not."""

    subject: str
    is_good: bool
    text: str


def examine(study: Study, may_pay: bool = False) -> Iterator[Finding]:
    """Checks the requirements of a run of this study one after the other.

    The teacher gets one request if that is free or `may_pay` is true.
    """
    yield Finding("task", True, f"{study.task.spec.name}, {study.task.training_prompts:,} training prompts")
    yield Finding("profile", True, f"{study.profile.name}, {len(study.cells)} cells")
    is_good = True
    for subject, check in _checks(study):
        finding = _finding(subject, check)
        is_good &= finding.is_good
        yield finding
    if is_good:
        yield _finding("teacher's first reply", partial(_first_reply, study, may_pay))


def _checks(study: Study) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "home", partial(_disk, study)
    yield "storage", partial(_storage, study)
    yield "device", partial(_device, study)
    yield "journal", partial(_journal, study)
    yield "student", partial(_model, study, study.profile.student, is_trained=True)
    for role, spec in study.profile.roles.items():
        if isinstance(spec, InProcessChat):
            yield role, partial(_model, study, spec.model)
        elif isinstance(spec, HostedChat):
            yield f"{role}'s key", partial(_key, spec)
            yield f"{role}'s endpoint", partial(_endpoint, study, spec)


def require_endpoints(study: Study, roles: Sequence[str]) -> list[str]:
    """Warnings about the endpoints of the profile's roles. Raises EndpointError where one cannot be used."""
    checked = [_checked(study, spec) for role, spec in study.profile.hosted.items() if role in roles]
    return [found.text for found in checked if found.is_warning]


def require_models(study: Study) -> None:
    """Raises ModelError where a model's weights are missing or damaged; only headers and sizes are read."""
    check_files(study.profile.student)
    for spec in study.profile.roles.values():
        if isinstance(spec, InProcessChat):
            check_files(spec.model)


def _finding(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, check())
    except SynthpostError as error:
        return Finding(subject, False, str(error))


def _disk(study: Study) -> str:
    home = study.settings.home
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
        probe_writing(home)
        free = shutil.disk_usage(home).free / GIB
    if free < MIN_DISK_GIB:
        raise StorageError(f"{home} has {free:.1f} GiB free; free {MIN_DISK_GIB:g} GiB or set SYNTHPOST_HOME")
    unfinished = [path for path in (home / "checkpoints").glob("*") if path.is_dir()]
    if not unfinished:
        return f"{home}, {free:.0f} GiB free"
    return (
        f"{home}, {free:.0f} GiB free; checkpoints of {len(unfinished)} unfinished trainings are kept in "
        f"{home / 'checkpoints'} for the runs that continue them; delete those that no run needs"
    )


def _storage(study: Study) -> str:
    """Writes, reads and deletes an object: a run would otherwise fail after hours of work."""
    root = study.store.root
    probe = root / f"writable-{uuid.uuid4().hex}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(PROBE)
        is_kept = probe.read_bytes() == PROBE
        probe.unlink()
    except Exception as error:  # each protocol has errors of its own
        raise StorageError(
            f"storage {root}: artifacts cannot be written there ({type(error).__name__}: {error}); correct `storage` "
            "in the profile, or the access rights"
        ) from None
    if not is_kept:
        raise StorageError(
            f"storage {root}: a written object was read back with other content; set another `storage` in the profile"
        )
    return f"{root} can be written"


def _device(study: Study) -> str:
    device = study.devices.candidates()[0]
    profile = study.profile
    needs = [profile.student.memory_gib]
    needs += [spec.model.memory_gib for spec in profile.roles.values() if isinstance(spec, InProcessChat)]
    free, most = free_gib(device), max(needs)
    if free < most:
        raise DeviceError(
            f"{device.label} has {free:.1f} GiB free, {most:g} are needed; free some, or choose a smaller model"
        )
    if profile.training.precision == "float8":
        from synthpost_dagster.training.float8 import check_device

        check_device(device)
    return f"{device.label}, {free:.0f} GiB free, {most:g} needed"


def _journal(study: Study) -> str:
    return f"{sum(record['replies'] for record in study.journal.summary()):,} replies in {study.journal.name}"


def _model(study: Study, spec: ModelSpec, is_trained: bool = False) -> str:
    """Checks a model's files without reading its weights, and renders prompts in its chat template."""
    check_suits_task(spec, study.task, study.profile.allow_untrained_task)
    check_files(spec)
    tokenizer, given = load_tokenizer(spec), generation_config(spec)
    if tokenizer.eos_token is None:
        raise ModelError(f"{spec.model} has no end token; choose an instruct model")
    prompts = evaluation_prompts(study.task, SAMPLE_PROMPTS)
    columns = ("student_prompt", "teacher_prompt") if is_trained else ("teacher_prompt",)
    system = study.system_prompt if is_trained else None
    chats = [chat(text, system) for column in columns for text in prompts[column]]
    template = ChatTemplate(tokenizer, spec.chat_template_kwargs)
    check_template(template, chats, is_trained, ends_of(given, tokenizer))
    ignored = ", ".join(f"{key} {value}" for key, value in ignored_sampling(given).items())
    note = f"; its generation_config.json is ignored ({ignored}): the profile sets the sampling" if ignored else ""
    return f"{spec.model}: weights, tokenizer, chat template and end token {tokenizer.eos_token} found{note}"


def _key(spec: HostedChat) -> str:
    if spec.api_key is None:
        return f"{spec.endpoint} needs none"
    if secret(spec.api_key) is None:
        raise EndpointError(f"{spec.api_key} is not set; put the key of {spec.endpoint} into this environment variable")
    return f"{spec.api_key} is set"


def _endpoint(study: Study, spec: HostedChat) -> str:
    found = _checked(study, spec)
    return f"warning: {found.text}" if found.is_warning else found.text


def _checked(study: Study, spec: HostedChat) -> Checked:
    model = chat_model(spec, study.context)
    if not isinstance(model, HostedModel):
        raise TypeError(f"{spec.endpoint}: {spec.backend} is not a backend for endpoints")
    return model.check()


def _first_reply(study: Study, may_pay: bool) -> str:
    """Sends the teacher the first request of the run."""
    spec = study.profile.teacher
    if isinstance(spec, HostedChat):
        is_paid = spec.prices is not None and (spec.prices.input > 0 or spec.prices.output > 0)
        if is_paid and not may_pay:
            return "not requested, because it costs money; `synthpost doctor --ask` requests it"
        return _reply_text(study, study.context)
    try:
        with study.devices.lease(0.0, timeout_seconds=0):
            pass
    except DeviceError:
        return "not requested, because another process holds the device"
    with tempfile.TemporaryDirectory() as folder:
        # A separate journal: a reply depends on the other prompts of its batch, and this prompt has none.
        journal = Journal(f"sqlite:///{folder}/journal.sqlite")
        return _reply_text(study, study.context._replace(journal=journal))


def _reply_text(study: Study, context: Context) -> str:
    model = chat_model(study.profile.teacher, context)
    brief = next(iter(briefs_by_id(study.task).values()))
    ask = ask_for(model, chat(render_prompt(study.task, "teacher", brief)), 0)
    with contextlib.closing(model.answers([ask], Work(ROWS, 1, SILENT))) as replies:
        reply = next(replies)
    cleaned = clean_reply(reply.text, reply.finish_reason)
    if not cleaned.reason:
        return f"{model.name} answered with {len(cleaned.post)} characters (finish reason {reply.finish_reason})"
    remedy = reason_remedy(cleaned.reason, study.task, study.profile)
    said = f" (“{shortened(reply.text)}”)" if reply.text.strip() else ""
    rejected = f"{model.name}: the first reply would be rejected{said}; replies like it {remedy}"
    if cleaned.post:  # another reply may be kept
        return f"warning: {rejected}"
    raise EndpointError(rejected)
