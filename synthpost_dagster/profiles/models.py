"""The models that a profile names: in this process or behind an endpoint, how they are sampled and what they cost.

A chat model is a teacher or a judge. `llm.chat_models` looks up the class that answers for a `backend`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from synthpost_dagster.tasks.records import Identifier, Record

EMBEDDED = "embedded"
ModelName = Annotated[str, StringConstraints(pattern=r"^(embedded|[~./].*|[A-Za-z0-9][\w.-]*/[\w.-]+)$")]
Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
EndpointName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,79}$")]
RESERVED_TEMPLATE_NAMES = frozenset(
    {"add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "messages"}
    | {"max_length", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "strftime_now"}
    | {"tokenize", "tokenizer_kwargs", "tools", "truncation"}
)
"""Arguments that every chat template gets, or that control how it is rendered."""
RESERVED_BODY_FIELDS = frozenset(
    {"model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "response_format"}
    | {"stream", "n", "best_of"}
)
"""Fields of a request that have a profile key of their own, or that would change what one reply is or costs."""


class ModelSpec(Record):
    """A model in this process: the embedded one, a folder, or a hub name pinned to a commit."""

    model: ModelName = Field(
        description="`embedded` (ships with the package), a folder that begins with `~`, `.` or `/`, or a hub name"
    )
    revision: Revision | None = Field(description="40-digit commit of a hub model; null for `embedded` and folders")
    quantization: Literal["none", "nf4"] = Field(
        description="nf4 loads the weights in 4 bits: a quarter of the memory, small quality loss, needs an NVIDIA GPU"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        description="type of weights and activations; bfloat16 halves the memory and is slower on most CPUs"
    )
    memory_gib: float = Field(gt=0, description="free memory in GiB that a device must have before the model is loaded")
    dequantize: bool | Literal["auto"] = Field(
        default="auto",
        description="decode 4-bit weights to `dtype` once: same values, faster, more memory; auto where memory allows",
    )
    chat_template_kwargs: dict[Identifier, bool | int | float | str | None] = Field(
        default_factory=dict,
        description="extra arguments of the chat template, in training and generation, e.g. `enable_thinking: false`",
    )

    @field_validator("chat_template_kwargs")
    @classmethod
    def _is_free(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := RESERVED_TEMPLATE_NAMES & set(value):
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
    """How a model in this process samples text."""

    temperature: float = Field(ge=0, le=2, description="sampling temperature; 0 is greedy decoding")
    top_p: float = Field(
        gt=0, le=1, description="nucleus sampling: probability mass that tokens are drawn from; 1 draws from all"
    )
    max_new_tokens: int = Field(ge=1, description="limit of one output in tokens; longer outputs are truncated")
    batch_size: int = Field(ge=1, description="outputs generated at once; larger is faster and needs more memory")
    seed: int = Field(ge=0, description="seed of the random numbers, so that a run can be repeated")


class PostSampling(Sampling):
    """How the student samples posts."""

    max_concurrent_sequences: int | None = Field(
        default=None,
        ge=1,
        description="decode slots: posts generated at once by a 16-bit student on a GPU or a float32 one on a CPU; "
        "if set, a post does not depend on what else is generated; null uses what the memory allows",
    )


class HostedSampling(Record):
    """How an endpoint is asked to sample text."""

    temperature: float = Field(ge=0, le=2, description="sampling temperature; 0 is greedy decoding")
    top_p: float = Field(gt=0, le=1, description="nucleus sampling: probability mass that tokens are drawn from")
    max_new_tokens: int = Field(
        ge=1, description="limit of one reply in tokens, reasoning included; longer replies are truncated"
    )
    seed: int | None = Field(ge=0, description="seed sent with each request; null for endpoints that accept none")


class Prices(Record):
    """Prices of an endpoint."""

    input: float = Field(ge=0, description="US dollars per million prompt tokens")
    output: float = Field(ge=0, description="US dollars per million generated tokens")


class Limits(Record):
    """Rate limits of an endpoint, timeouts and retries."""

    concurrency: int = Field(
        ge=1, le=4_096, description="maximum requests in flight; starts at 8 and adapts to what the endpoint accepts"
    )
    requests_per_minute: int | None = Field(ge=1, description="rate limit of your account; null for none")
    tokens_per_minute: int | None = Field(
        ge=1, description="rate limit of your account, prompt and reply together; null for none"
    )
    timeout_seconds: float = Field(gt=0, description="seconds to wait for one reply before the request has failed")
    max_request_attempts: int = Field(
        ge=1, le=20, description="times one request is sent when the endpoint or the connection fails"
    )
    max_retry_wait_seconds: float = Field(
        ge=0,
        description="longest wait for an endpoint that is busy or asks for a pause, in seconds; beyond it the run ends "
        "and can be resumed",
    )


class InProcessChat(Record):
    """A teacher or judge loaded with transformers in this process: nothing leaves the machine."""

    backend: Literal["transformers"] = Field(description="`transformers`: a model in this process")
    model: ModelSpec = Field(description="the model and how it is loaded")
    sampling: Sampling = Field(description="how its replies are sampled")
    max_replies_per_row: int = Field(
        ge=1, le=10, description="replies requested before a row stays rejected, or a game stays unscored"
    )

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{self.backend}/{self.model.model}"


class HostedChat(Record):
    """A teacher or judge behind an endpoint that speaks the chat-completions protocol."""

    backend: Literal["openai", "groq"] = Field(
        description="`openai` for any compatible endpoint (vLLM, Ollama, llama.cpp, OpenRouter), `groq` for Groq"
    )
    endpoint: EndpointName = Field(description="your name for the endpoint; its replies are cached under this name")
    base_url: str | None = Field(description="address of the API, usually ending in /v1; null for the SDK's default")
    api_key: VariableName | None = Field(
        description="NAME of the environment variable that holds the key; null where the endpoint needs none"
    )
    model: str = Field(min_length=1, max_length=200, description="model name as the endpoint lists it")
    revision: str | None = Field(
        description="version of the served model, if you know it; a new value requests all replies again"
    )
    sampling: HostedSampling = Field(description="how replies are sampled")
    max_tokens_as: Literal["max_tokens", "max_completion_tokens"] = Field(
        description="request field that carries sampling.max_new_tokens; OpenAI and Groq want max_completion_tokens"
    )
    structured_output: Literal["none", "json_object", "json_schema"] = Field(
        description="response format requested from judges; json_schema is the strictest the endpoint may support"
    )
    extra_body: dict[str, Any] = Field(description="more request fields, e.g. `reasoning_effort: low`")
    prices: Prices | None = Field(description="for cost estimates and the budget; null where tokens cost nothing")
    limits: Limits = Field(description="rate limits, timeout and retries")
    max_replies_per_row: int = Field(
        ge=1, le=10, description="replies requested before a row stays rejected, or a game stays unscored"
    )

    @property
    def name(self) -> str:
        """The name in tables."""
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
        if taken := RESERVED_BODY_FIELDS & set(value):
            raise ValueError(f"{', '.join(sorted(taken))} cannot be set here")
        return value


class RubricJudge(Record):
    """A judge without a model: checks the task's criteria on the text itself."""

    backend: Literal["rubric"] = Field(description="`rubric`: the task's checks decide, at no cost")

    @property
    def name(self) -> str:
        """The name in tables."""
        return self.backend


ChatSpec = Annotated[InProcessChat | HostedChat, Field(discriminator="backend")]
JudgeSpec = Annotated[RubricJudge | InProcessChat | HostedChat, Field(discriminator="backend")]
