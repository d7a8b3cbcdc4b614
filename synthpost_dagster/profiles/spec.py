"""What a profile is: teacher, student, training, judges, device and the cells of the sweep.

Reading the files is `profiles.loading`; the records of models and endpoints are `profiles.models`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from synthpost_dagster.profiles.models import ChatSpec, HostedChat, JudgeSpec, ModelSpec, PostSampling
from synthpost_dagster.tasks.records import Identifier, Record, Text
from synthpost_dagster.tasks.spec import Sweep

ProfileName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a decoder layer, as LLaMA names them."""
LAYOUT = ("micro_batch", "gradient_checkpointing", "padding_free", "compile", "checkpoint_seconds", "max_length")
"""Training keys that change speed and memory, and the adapter only by rounding (in float8, of 3 bits). `max_length` is
among them because rows above it are refused."""


class Lora(Record):
    """Low-rank adapters (arXiv:2106.09685)."""

    r: int = Field(ge=1, description="rank; a higher rank can learn more and needs more memory")
    alpha: int = Field(ge=1, description="scale of the update, which is alpha / r")
    dropout: float = Field(ge=0, lt=1, description="share of adapter inputs dropped in training; 0 is fastest")
    bias: Literal["none"] = Field(
        description="only `none`: trained biases would change the base model that the cells share"
    )
    target_modules: tuple[Identifier, ...] = Field(min_length=1, description="names of the linear layers to adapt")


class TrainingSpec(Record):
    """Hyper-parameters of the fine-tuning, and how it uses memory."""

    trainer: Literal["trl", "unsloth"] = Field(
        description="fine-tuning library; unsloth needs the extra `gpu` and an NVIDIA GPU"
    )
    lora: Lora = Field(description="rank, scale and place of the adapter")
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit"] = Field(
        description="fused is faster on a GPU; 8bit keeps the optimizer state in 8 bits, a quarter of its memory"
    )
    learning_rate: float = Field(gt=0, description="peak learning rate; too high a rate forgets general text")
    scheduler: Literal["linear", "cosine", "constant"] = Field(description="learning-rate schedule after warm-up")
    warmup_steps: int = Field(ge=0, description="optimizer steps over which the learning rate rises from 0")
    weight_decay: float = Field(ge=0, description="AdamW's weight decay")
    max_grad_norm: float = Field(gt=0, description="gradients are clipped to this norm")
    precision: Literal["float32", "bfloat16", "float8"] = Field(
        description="number format of training; float8 computes the frozen layers in 8 bits, faster on Ada, Hopper or "
        "later, at a small loss of accuracy"
    )
    rows_per_step: int = Field(ge=1, description="rows per optimizer step (effective batch size)")
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        description="rows in memory at once; fewer need less memory and more time, with the same result; auto fits them"
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        description="recompute activations in the backward pass: less memory, more time; auto only if memory is short"
    )
    padding_free: bool = Field(
        description="concatenate rows instead of padding them: same result, faster; false pads as plain TRL does"
    )
    compile: bool | Literal["auto"] = Field(
        description="compile the decoder layers; auto on a GPU when enough steps follow to pay for it"
    )
    checkpoint_seconds: float = Field(
        gt=0, description="seconds between checkpoints, from which a killed training resumes"
    )
    max_length: int = Field(ge=16, description="longest conversation in tokens; a longer row ends the run")
    packing: bool = Field(description="must be false: rows packed into one sequence would attend to each other")
    seed: int = Field(ge=0, description="seed of adapter initialisation and row order")
    loss: Literal["completion", "full"] = Field(
        description="tokens that are learned: `completion` is the post alone, `full` the prompt as well"
    )
    system_prompt: bool = Field(description="put the task's system prompt before each conversation")

    @model_validator(mode="after")
    def _divides(self) -> TrainingSpec:
        if self.micro_batch != "auto" and self.rows_per_step % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide rows_per_step {self.rows_per_step}")
        if self.packing:
            raise ValueError("packing: rows packed into one sequence would attend to each other; set it to false")
        return self

    @model_validator(mode="after")
    def _supports_float8(self) -> TrainingSpec:
        if self.precision != "float8":
            return self
        if self.trainer != "trl" or not self.padding_free or self.lora.dropout:
            raise ValueError("precision float8 needs trainer: trl, padding_free: true and lora.dropout: 0")
        if missing := sorted(set(PROJECTIONS) - set(self.lora.target_modules)):
            raise ValueError(f"precision float8 needs adapters on all projections; add {', '.join(missing)}")
        return self

    @property
    def shaping(self) -> dict[str, Any]:
        """The keys that shape an adapter, for its fingerprint: all but LAYOUT."""
        return self.model_dump(mode="json", exclude=set(LAYOUT))


STUDY_EVALUATION_PROMPTS = 95
STUDY_TRAINING = TrainingSpec(
    trainer="trl",
    lora=Lora(r=16, alpha=16, dropout=0.0, bias="none", target_modules=PROJECTIONS),
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
"""The study's own arguments: 2 rows × 4 accumulation steps, loss over the whole conversation. The trainer stays the
file's."""


class DeviceSpec(Record):
    """Where models run, and how runs share the device."""

    device: Literal["auto", "cpu", "cuda"] = Field(description="auto takes an NVIDIA GPU if there is one")
    max_concurrent_runs: int = Field(
        ge=1,
        description="runs that share one device, each with its own copy of the student; above 1 only if "
        "student.memory_gib fits that often",
    )
    memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="GPU memory in GiB that one run may use; null for an equal share of the GPU",
    )
    cpu_threads: int | None = Field(ge=1, description="CPU threads of torch; null for one per core")
    process_per_run: bool = Field(
        description="run each job with a model in its own process, which frees all GPU memory at its end "
        "and costs some seconds"
    )


class Cells(Sweep):
    """The cells of a run: data sizes × steps, and more seeds for each."""

    more_seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        description="train and judge each cell again under each of these seeds, to see how much chance matters"
    )

    @field_validator("more_seeds")
    @classmethod
    def _once(cls, value: tuple[int | str, ...]) -> tuple[int | str, ...]:
        if len({str(level) for level in value}) != len(value):
            raise ValueError("a level is named twice")
        return value


class Profile(Record):
    """A profile file."""

    name: ProfileName = Field(description="name in messages, and of the budget's account")
    description: Text = Field(description="one sentence for people")
    study: bool = Field(
        description="true replaces `training`, evaluation_prompts and predictions.max_new_tokens by the study's own"
    )
    teacher: ChatSpec = Field(description="the model that writes the synthetic rows")
    student: ModelSpec = Field(description="the model that is fine-tuned, and the untuned baseline")
    training: TrainingSpec = Field(description="hyper-parameters of the fine-tuning")
    predictions: PostSampling = Field(description="how the student writes posts for the evaluation")
    judges: tuple[JudgeSpec, ...] = Field(
        min_length=1, description="one or more judges; with several, the majority decides a game"
    )
    budget: float | None = Field(
        ge=0,
        description="US dollars that all runs under this profile's name may spend on endpoints; null for no cap",
    )
    device: DeviceSpec = Field(description="where models run")
    sweep: Cells = Field(description="the cells to train and judge")
    control_temperature: float = Field(
        gt=0,
        le=2,
        description="temperature of the control: two samples of the untuned model are judged against each other",
    )
    evaluation_prompts: int | None = Field(
        ge=1, description="evaluation prompts, at most those of the holdout; null for the task's number"
    )
    storage: str | None = Field(description="path or URL of the artifacts; null for $SYNTHPOST_HOME/storage")
    allow_untrained_task: bool = Field(
        description="let the embedded model run a task that it was not trained for; its posts are then meaningless"
    )
    stop_on_bad_start: bool = Field(
        default=True,
        description="end the run if over 80 % of the teacher's first 20 replies are rejected for one reason",
    )
    embedder: str | None = Field(
        default=None,
        description="folder of a sentence embedder, for the Vendi score and semantic near-duplicates; null skips both",
    )

    @model_validator(mode="after")
    def _priced(self) -> Profile:
        for role, spec in self.hosted.items():
            if self.budget is not None and spec.prices is None:
                raise ValueError(f"{role}.prices: `budget` needs prices; write 0 where tokens cost nothing")
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
        """Role → endpoint, for the teacher and the judges that have one."""
        return {role: spec for role, spec in self.roles.items() if isinstance(spec, HostedChat)}

    @property
    def roles(self) -> dict[str, JudgeSpec]:
        """Names of teacher and judges in messages: `teacher`, and `judge`, or `judge 1` and so on."""
        judges = self.judges
        names = ["judge"] if len(judges) == 1 else [f"judge {place}" for place in range(1, len(judges) + 1)]
        return {"teacher": self.teacher, **dict(zip(names, judges, strict=True))}

    @field_validator("storage")
    @classmethod
    def _storage(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("an empty path; set it to null for the default")
        return value
