"""Whether an endpoint has the profile's model, under any spelling of its name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.errors import EndpointError
from synthpost_dagster.llm.chat_models import Work, ask_for, chat_model
from synthpost_dagster.llm.errors import RequestError
from synthpost_dagster.profiles.models import HostedChat
from synthpost_dagster.runtime.progress import SILENT

if TYPE_CHECKING:
    from synthpost_dagster.llm.client import HostedModel

CHECKS = "model checks"
"""Purpose in the journal of requests that only check a model."""
CHECK_TOKENS = 16
"""Limit of such a reply; some endpoints accept no lower one."""
_SPELLING = re.compile(r"^(?:models/)?(.*?)(?::latest|\.gguf)?$", re.IGNORECASE | re.DOTALL)


class Checked(NamedTuple):
    """Result of a check in one sentence, and whether it is a warning."""

    text: str
    is_warning: bool = False


def check(model: HostedModel) -> Checked:
    """Whether the endpoint has the model. If it lists others alone, one journaled request decides.

    Raises EndpointError if it cannot be reached, is no API, refuses the key or lacks the model; BudgetReached if the
    request may exceed the budget.
    """
    spec = model.spec
    with asyncio.Runner() as runner:
        listed = runner.run(_listed(model))
    if not listed:
        return Checked(f"{spec.endpoint} is reachable and lists no models; {spec.model} is not checked")
    spelling = spelling_of(spec.model, listed)
    if spelling is None:
        return _check_by_request(model, listed)
    as_listed = "" if spelling == spec.model else f", listed as {spelling}"
    return Checked(f"{spec.endpoint} is reachable and offers {spec.model}{as_listed}")


async def _listed(model: HostedModel) -> list[str]:
    transport = model.connect()
    try:
        return await transport.models()
    except RequestError as error:
        raise EndpointError(f"{model.name}: {error}") from None
    finally:
        await transport.close()


def _check_by_request(model: HostedModel, listed: list[str]) -> Checked:
    spec = model.spec
    sampling = spec.sampling.model_copy(update={"max_new_tokens": CHECK_TOKENS})
    asked = chat_model(spec.model_copy(update={"sampling": sampling}), model.context)
    ask = ask_for(asked, [{"role": "user", "content": "Answer with the word yes."}], 0)
    (reply,) = asked.answers([ask], Work(CHECKS, 1, SILENT))
    if reply.finish_reason == "refused":
        raise unknown_model(spec, reply.text, listed)
    served = "" if spelling_of(spec.model, [reply.served_model]) else f" as {reply.served_model}"
    return Checked(
        f"{spec.endpoint} answers requests for {spec.model}{served} but does not list it (it lists "
        f"{', '.join(sorted(listed))}); make sure that this is the model you mean",
        is_warning=True,
    )


def unknown_model(spec: HostedChat, why: str, listed: list[str]) -> EndpointError:
    """The error for a model that the endpoint does not have."""
    names = f"it offers {', '.join(sorted(listed))}" if listed else "it lists no models"
    return EndpointError(f"{spec.endpoint}: has no model {spec.model} ({why}); {names}; correct `model` in the profile")


def spelling_of(model: str, listed: Sequence[str]) -> str | None:
    """The listed name of a model: the same, or different in case, `models/` before, `:latest` or `.gguf` after it, or
    in a vendor or folder that only one of the two has. None if there is none.
    """
    if model in listed:
        return model
    plain = {name: _SPELLING.sub(r"\1", name).casefold() for name in sorted(listed)}
    wanted = _SPELLING.sub(r"\1", model).casefold()
    same = [name for name, spelling in plain.items() if spelling == wanted]
    bare = [
        name for name, spelling in plain.items() if spelling.endswith(f"/{wanted}") or wanted.endswith(f"/{spelling}")
    ]
    return next(iter(same + bare), None)
