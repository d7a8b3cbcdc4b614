"""What a profile says of models: those in this process, those behind an endpoint, how they are sampled, what they cost.

A chat model is a teacher or a judge. Which class answers for a `backend` is the business of `generation.chat_models`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from synthpost_dagster.tasks.spec import Identifier, Record

EMBEDDED = "embedded"
ModelName = Annotated[str, StringConstraints(pattern=r"^(embedded|[~./].*|[A-Za-z0-9][\w.-]*/[\w.-]+)$")]
Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
EndpointName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
TEMPLATE_OWN = frozenset(
    {"add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "messages"}
    | {"max_length", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "strftime_now"}
    | {"tokenize", "tokenizer_kwargs", "tools", "truncation"}
)
"""What a chat template is always given, or what says how it is rendered."""
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,79}$")]
OWN_FIELDS = frozenset(
    {"model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "response_format"}
    | {"stream", "n", "best_of"}
)
"""Fields of a request that have a key of their own in the profile, or that what a reply is and costs depends on."""


class ModelSpec(Record):
    """A model in this process: the embedded one, a folder, or a hub name pinned to a commit."""

    model: ModelName
    revision: Revision | None
    quantization: Literal["none", "nf4"]
    dtype: Literal["float32", "bfloat16"]
    memory_gib: float = Field(gt=0, description="free memory that its work needs")
    dequantize: bool | Literal["auto"] = Field(
        default="auto", description="hold 4-bit weights decoded to `dtype`: the same values, faster, more memory"
    )
    chat_template_kwargs: dict[Identifier, bool | int | float | str | None] = Field(
        default_factory=dict,
        description="what the chat template is given, in training and generation alike, such as enable_thinking: false",
    )

    @field_validator("chat_template_kwargs")
    @classmethod
    def _is_free(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := TEMPLATE_OWN & set(value):
            raise ValueError(f"{', '.join(sorted(taken))} cannot be set here")
        return value

    @model_validator(mode="after")
    def _pinned(self) -> ModelSpec:
        is_hub = self.model != EMBEDDED and self.model[0] not in "~./"
        if is_hub and self.revision is None:
            raise ValueError(f"{self.model} is a hub name and needs a revision: the 40-digit commit to pin it to")
        if not is_hub and self.revision is not None:
            raise ValueError(f"{self.model} is not a hub name, so it has no revision: set it to null")
        return self


class Sampling(Record):
    """How text is drawn in this process; temperature 0 is greedy."""

    temperature: float = Field(ge=0, le=2)
    top_p: float = Field(gt=0, le=1)
    max_new_tokens: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    seed: int = Field(ge=0)


class PostSampling(Sampling):
    """How the student's posts are drawn."""

    slots: int | None = Field(
        default=None,
        ge=1,
        description="posts written at a time, in steps that are always as wide: by a 16-bit student on a GPU, or a "
        "float32 one on a CPU, the same posts whatever else is written with them; null: as many as the memory holds",
    )


class HostedSampling(Record):
    """How an endpoint is to draw text."""

    temperature: float = Field(ge=0, le=2)
    top_p: float = Field(gt=0, le=1)
    max_new_tokens: int = Field(ge=1)
    seed: int | None = Field(ge=0, description="sent with each request; null where the endpoint knows none")


class Prices(Record):
    """US dollars a million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class Limits(Record):
    """How hard an endpoint may be pressed, and how long it is waited for."""

    concurrency: int = Field(ge=1, le=4_096, description="most requests in flight")
    requests_per_minute: int | None = Field(ge=1)
    tokens_per_minute: int | None = Field(ge=1)
    timeout_seconds: float = Field(gt=0, description="for one reply")
    tries: int = Field(ge=1, le=20, description="of one request, where the endpoint or the line fails")
    patience_seconds: float = Field(
        ge=0,
        description="a longer wait than this, asked for by the endpoint or without any reply meanwhile, ends the run",
    )


class InProcessChat(Record):
    """A model that is loaded with transformers into this process: nothing leaves the machine."""

    backend: Literal["transformers"]
    model: ModelSpec
    sampling: Sampling
    attempts: int = Field(ge=1, le=10, description="replies asked for before a row stays rejected or a game unscored")

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.backend}/{self.model.model}"


class HostedChat(Record):
    """A model behind an endpoint that speaks the chat-completions protocol."""

    backend: Literal["openai", "groq"]
    endpoint: EndpointName = Field(description="your name for it; replies are kept under it, whatever its address")
    base_url: str | None = Field(description="null for the SDK's own")
    api_key: VariableName | None = Field(description="name of the environment variable that holds the key")
    model: str = Field(min_length=1, max_length=200)
    revision: str | None = Field(description="what you know of the version served, as part of the replies' key")
    sampling: HostedSampling
    max_tokens_as: Literal["max_tokens", "max_completion_tokens"]
    structured_output: Literal["none", "json_object", "json_schema"] = Field(description="for judges")
    extra_body: dict[str, Any] = Field(description="more fields of the request, such as reasoning_effort")
    prices: Prices | None = Field(description="null where nothing is paid by the token")
    limits: Limits
    attempts: int = Field(ge=1, le=10, description="replies asked for before a row stays rejected or a game unscored")

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.endpoint}/{self.model}"

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("begin the address with http:// or https://")
        if value is not None and "@" in value:
            raise ValueError("no user and password in the address; name the key's variable in api_key")
        return value

    @field_validator("extra_body")
    @classmethod
    def _is_extra(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := OWN_FIELDS & set(value):
            raise ValueError(f"{', '.join(sorted(taken))} cannot be set here")
        return value


class RubricJudge(Record):
    """The task's criteria, checked on the text itself."""

    backend: Literal["rubric"]

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.backend


ChatSpec = Annotated[InProcessChat | HostedChat, Field(discriminator="backend")]
JudgeSpec = Annotated[RubricJudge | InProcessChat | HostedChat, Field(discriminator="backend")]
