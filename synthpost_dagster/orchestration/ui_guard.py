"""Guards the UI's webserver, which has no log-in: only known host names and the UI's own pages are answered.

Without it, any web page could reach the server through the visitor's browser: by a name that resolves to 127.0.0.1 (DNS
rebinding), or by cross-origin requests to 127.0.0.1.
"""

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY_VIOLATION = 1008

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]


class HostGuard:
    """An ASGI application that forwards requests and websockets for an allowed host, with any port.

    Others get status 400 and a sentence, or a closed websocket.
    """

    def __init__(self, app: App, allowed: Collection[str]) -> None:
        self._app, self._allowed = app, {name.lower().strip("[]").rstrip(".") for name in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The interface of an ASGI application."""
        reason = self._refusal(scope) if scope["type"] in ("http", "websocket") else ""
        if not reason:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason[:120]})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send({"type": "http.response.body", "body": reason.encode()})

    def _refusal(self, scope: Scope) -> str:
        """Why a request is refused; empty where it is not."""
        hosts = _values(scope, b"host")
        if len(hosts) != 1 or _host_name(hosts[0]) not in self._allowed:
            named = ", ".join(hosts)
            return f"host {named!r} is not allowed; open the UI by a loopback name, or start it with --allow-host"
        for origin in _values(scope, b"origin"):
            place = origin.partition("://")[2]
            if place != hosts[0] and _host_name(place) not in self._allowed - set(LOOPBACK):
                return f"requests of {origin!r} are not allowed; start the UI with --allow-host if they should be"
        is_foreign = _values(scope, b"sec-fetch-site") in (["cross-site"], ["same-site"])
        if is_foreign and _values(scope, b"sec-fetch-mode") != ["navigate"]:
            return "requests of other sites' pages are not allowed"
        return ""


def _values(scope: Scope, name: bytes) -> list[str]:
    """The values of a header; ASGI servers send names in lower case."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _host_name(place: str) -> str:
    """The name in `name:port` or `[address]:port`; empty for anything else."""
    if any(sign in place for sign in "@/?#\\ \t"):
        return ""
    try:
        split = urlsplit(f"//{place}")
        _ = split.port
    except ValueError:
        return ""
    return (split.hostname or "").rstrip(".")
