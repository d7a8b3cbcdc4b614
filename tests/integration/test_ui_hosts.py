"""The UI's real server answers under loopback names alone, and leaves no process behind."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.helpers.small_study import write_small_study
from tests.helpers.ui_server import Server, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(write_small_study(tmp_path_factory.mktemp("hosts"))) as running:
        yield running


def status(server: Server, host: str, method: str = "GET", path: str = "/server_info", body: object = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Host": host, "Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body) if body else None, headers)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def websocket(server: Server, host: str) -> str:
    """The first line of the answer to a websocket's handshake."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        "GET /graphql HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: graphql-ws",
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return connection.recv(1_000).decode().partition("\r\n")[0]


def test_the_server_refuses_foreign_hosts_in_pages_graphql_and_websockets(server: Server) -> None:
    query = {"query": "{ version }"}
    for host, expected, handshake in (
        ("evil.example", 400, "403"),
        (f"localhost:{server.port}", 200, "101"),
        (f"[::1]:{server.port}", 200, "101"),
    ):
        assert status(server, host) == expected, host
        assert status(server, host, "POST", "/graphql", query) == expected, host
        assert handshake in websocket(server, host), host


def test_ctrl_c_ends_every_process_of_the_ui(server: Server, until: Callable[..., object]) -> None:
    (ui,) = [
        process
        for process in psutil.process_iter()
        if process.ppid() == os.getpid() and str(server.port) in process.cmdline()
    ]
    children = ui.children(recursive=True)
    assert len(children) >= 2
    ui.send_signal(signal.SIGINT)
    until("all have ended", lambda: not any(is_running(child) for child in children))


def is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
