"""The UI answers under known host names, and to pages of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from synthpost_dagster.orchestration.ui_guard import LOOPBACK, HostGuard

PROXY = "study.example.com"


async def app(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def answer(kind: str = "http", *headers: tuple[str, str]) -> dict[str, Any]:
    """The first thing that is sent back."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": kind, "headers": [(name.encode(), value.encode()) for name, value in headers]}
    asyncio.run(HostGuard(app, [*LOOPBACK, PROXY])(scope, None, send))  # type: ignore[arg-type]
    return sent[0]


def status(host: str, *more: tuple[str, str]) -> int:
    return int(answer("http", ("host", host), *more)["status"])


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:3000", "localhost:8080", "LOCALHOST", "localhost.", "[::1]", "[::1]:3000", PROXY],
)
def test_a_loopback_or_allowed_name_is_answered_with_any_port(host: str) -> None:
    assert status(host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:3000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil@127.0.0.1",
        "127.0.0.1/@evil.example",
        "[::2]",
        "[::1",
        "localhost:port",
        "",
        "evil.study.example.com",
    ],
)
def test_any_other_host_gets_400_and_a_closed_websocket(host: str) -> None:
    assert status(host) == 400
    assert answer("websocket", ("host", host))["type"] == "websocket.close"


def test_a_request_with_no_host_or_two_gets_400() -> None:
    assert answer()["status"] == 400
    assert status("localhost", ("host", "evil.example")) == 400


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("localhost:3000", "http://localhost:3000", 200),
        ("[::1]:3000", "http://[::1]:3000", 200),
        ("127.0.0.1:3000", "https://study.example.com", 200),
        ("localhost:3000", "http://evil.example", 400),
        ("localhost:3000", "http://localhost:8888", 400),
        ("localhost:3000", "null", 400),
    ],
)
def test_a_page_of_another_origin_gets_400(host: str, origin: str, expected: int) -> None:
    assert status(host, ("origin", origin)) == expected
    is_closed = answer("websocket", ("host", host), ("origin", origin))["type"] == "websocket.close"
    assert is_closed == (expected == 400)


def test_another_sites_page_may_link_here_and_not_embed() -> None:
    foreign = ("sec-fetch-site", "cross-site")
    assert status("localhost", foreign, ("sec-fetch-mode", "navigate")) == 200
    assert status("localhost", foreign, ("sec-fetch-mode", "no-cors")) == 400
    assert status("localhost", ("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")) == 200
