"""A profile says with what a study runs: teacher, student, judge, trainer, device and the cells of the sweep.

The records and their loading live here; the packaged profiles are the YAML files beside this module. What is to be
written, and how posts are judged, belongs to the task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from synthpost_dagster.errors import SpecError
from synthpost_dagster.files.yaml_files import Document, combined, read_document, record_of
from synthpost_dagster.profiles.models import ChatSpec, HostedChat, JudgeSpec, ModelSpec, PostSampling
from synthpost_dagster.tasks.loading import load_task
from synthpost_dagster.tasks.spec import Identifier, Record, Text
from synthpost_dagster.tasks.task import Task

FOLDER = Path(__file__).parent
ProfileName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


class Lora(Record):
    """Low-rank adapters (arXiv:2106.09685)."""

    r: int = Field(ge=1)
    alpha: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    bias: Literal["none"] = Field(description="trained biases would change the base that other cells start from")
    target_modules: tuple[Identifier, ...] = Field(min_length=1)


PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Of a decoder layer, as LLaMA names them."""
LAYOUT = ("micro_batch", "gradient_checkpointing", "padding_free", "compile", "checkpoint_seconds", "max_length")
"""Keys of a training that its result does not depend on, but for rounding, which in float8 is that of 3 bits; rows over
`max_length` are refused."""


class TrainingSpec(Record):
    """Every hyper-parameter of the tuning, and how it is done: `LAYOUT` names what its result does not depend on."""

    trainer: Literal["trl", "unsloth"] = Field(description="unsloth needs the extra `gpu` and an NVIDIA GPU")
    lora: Lora
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit"]
    learning_rate: float = Field(gt=0)
    scheduler: Literal["linear", "cosine", "constant"]
    warmup_steps: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0, description="gradients are scaled down to this norm")
    precision: Literal["float32", "bfloat16", "float8"] = Field(
        description="float8: the decoder's frozen products in 8 bits, all else as in bfloat16; for Ada and Hopper"
    )
    rows_per_step: int = Field(ge=1)
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(description="rows held in memory at once")
    gradient_checkpointing: bool | Literal["auto"] = Field(description="activations are made again for the gradient")
    padding_free: bool = Field(description="rows end to end, attention within each; false: padded, as TRL has it")
    compile: bool | Literal["auto"] = Field(description="the decoder layers, on a GPU")
    checkpoint_seconds: float = Field(gt=0, description="so often a checkpoint is written, to go on from after a kill")
    max_length: int = Field(ge=16, description="tokens")
    packing: bool
    seed: int = Field(ge=0)
    loss: Literal["completion", "full"]
    system_prompt: bool

    @model_validator(mode="after")
    def _divides(self) -> TrainingSpec:
        if self.micro_batch != "auto" and self.rows_per_step % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide rows_per_step {self.rows_per_step}")
        if self.packing:
            raise ValueError("packing: rows packed into one would see each other; set it to false")
        return self

    @model_validator(mode="after")
    def _is_done_in_8_bits(self) -> TrainingSpec:
        if self.precision != "float8":
            return self
        if self.trainer != "trl" or not self.padding_free or self.lora.dropout:
            raise ValueError("precision float8 needs trainer: trl, padding_free: true and lora.dropout: 0")
        if missing := sorted(set(PROJECTIONS) - set(self.lora.target_modules)):
            raise ValueError(f"precision float8 needs adapters on all projections; add {', '.join(missing)}")
        return self

    @property
    def shaping(self) -> dict[str, Any]:
        """What of it shapes an adapter: all but how the rows are laid out in memory and how often they are saved."""
        return self.model_dump(mode="json", exclude=set(LAYOUT))


class DeviceSpec(Record):
    """Where models run; `own_process` gives each run that holds one a process of its own, so that nothing is left on
    the device.
    """

    device: Literal["auto", "cpu", "cuda"]
    slots: int = Field(ge=1, description="sweeps at a time on one device, each with a student of its own")
    memory_gib: float | None = Field(
        default=None, gt=0, description="most memory of a GPU for one slot; null for all, or an equal share of it"
    )
    cpu_threads: int | None = Field(ge=1, description="torch's threads on the CPU; null for as many as there are cores")
    own_process: bool


class Cells(Record):
    """The part of the task's sweep that a run covers, and the seeds under which each cell is trained once more."""

    data_sizes: tuple[int, ...] = Field(min_length=1)
    steps: tuple[int | str, ...] = Field(min_length=1)
    more_seeds: tuple[Annotated[int, Field(ge=0)], ...]

    @field_validator("data_sizes", "steps", "more_seeds")
    @classmethod
    def _once(cls, value: tuple[int | str, ...]) -> tuple[int | str, ...]:
        if len({str(level) for level in value}) != len(value):
            raise ValueError("a level is named twice")
        return value


class Profile(Record):
    """A profile file."""

    name: ProfileName
    description: Text
    study: bool
    teacher: ChatSpec
    student: ModelSpec
    training: TrainingSpec
    predictions: PostSampling
    judges: tuple[JudgeSpec, ...] = Field(min_length=1, description="several are a panel; the majority decides")
    budget: float | None = Field(
        ge=0, description="US dollars that may be spent under this profile's name; null: no cap"
    )
    device: DeviceSpec
    sweep: Cells
    control_temperature: float = Field(
        gt=0, le=2, description="at which the untuned model is sampled twice, to be judged against itself"
    )
    evaluation_prompts: int | None = Field(ge=1, description="fewer than the task's; null for the task's number")
    storage: str | None = Field(description="where artifacts go, a path or URL; null for $SYNTHPOST_HOME/storage")
    allow_untrained_task: bool
    stop_on_bad_start: bool = Field(
        default=True,
        description="end the run where the teacher's first 20 replies are rejected for one reason in more than 80 %",
    )
    embedder: str | None = Field(
        default=None, description="folder of a sentence embedder, for the Vendi score; null: none is measured"
    )

    @model_validator(mode="after")
    def _priced(self) -> Profile:
        for role, spec in self.hosted.items():
            if self.budget is not None and spec.prices is None:
                raise ValueError(f"{role}.prices: a budget is set, so prices are needed; write 0 where nothing is paid")
        return self

    @model_validator(mode="after")
    def _differ(self) -> Profile:
        names = [spec.name for spec in self.judges]
        if twice := next((spec for spec in self.judges if names.count(spec.name) > 1), None):
            remedy = "remove one or give it another `endpoint`" if isinstance(twice, HostedChat) else "remove one"
            raise ValueError(f"judges: {twice.name} is named twice, and verdicts are kept by that name; {remedy}")
        if self.training.seed in self.sweep.more_seeds:
            raise ValueError(f"sweep.more_seeds: {self.training.seed} is training.seed already; name others")
        return self

    @property
    def hosted(self) -> dict[str, HostedChat]:
        """Role → its endpoint, for the teacher and the judges that are behind one."""
        return {role: spec for role, spec in self.roles.items() if isinstance(spec, HostedChat)}

    @property
    def roles(self) -> dict[str, JudgeSpec]:
        """What each model that is asked is called in messages: teacher, and judge, or judge 1 and so on."""
        judges = self.judges
        names = ["judge"] if len(judges) == 1 else [f"judge {place}" for place in range(1, len(judges) + 1)]
        return {"teacher": self.teacher, **dict(zip(names, judges, strict=True))}

    @field_validator("storage")
    @classmethod
    def _storage(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("an empty path; set it to null for the default")
        return value


STUDY_EVALUATION_PROMPTS = 95
STUDY_TRAINING = TrainingSpec(
    trainer="trl",
    lora=Lora(
        r=16,
        alpha=16,
        dropout=0.0,
        bias="none",
        target_modules=PROJECTIONS,
    ),
    optimizer="adamw_8bit",
    learning_rate=2e-4,
    scheduler="linear",
    warmup_steps=5,
    weight_decay=0.01,
    max_grad_norm=1.0,
    precision="bfloat16",
    rows_per_step=8,
    micro_batch=2,
    gradient_checkpointing=True,
    padding_free=False,
    compile=False,
    checkpoint_seconds=60,
    max_length=2_048,
    packing=False,
    seed=3407,
    loss="full",
    system_prompt=True,
)
"""The study's own arguments (design, section 2): 2 rows × 4 accumulation steps, loss over the whole conversation. Which
of the trainers follows them is the file's business."""


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
