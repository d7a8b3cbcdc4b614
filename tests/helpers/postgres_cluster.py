"""A temporary PostgreSQL cluster for the tests of the journal: a folder, a port of its own, no password."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.ports import free_port

USER = "postgres"


@contextlib.contextmanager
def postgres_cluster() -> Iterator[str]:
    """The URL of a running cluster, without a database. Skips where PostgreSQL is not installed; in CI it fails."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not binaries:
        message = "no PostgreSQL server here; apt-get install postgresql"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="synthpost-postgres-"))
    data, log, bin_folder, port = folder / "data", folder / "log", binaries[-1].parent, free_port()
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, USER)
        _run(bin_folder / "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        # No durability: the folder is temporary. Every one of many short tests has several connections.
        options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off -c max_connections=100"
        _run(bin_folder / "pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://{USER}@127.0.0.1:{port}"
        finally:
            _run(bin_folder / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def restart(url: str) -> None:
    """Ends all connections of the cluster at a URL, as a crash does, and starts it again."""
    _run(*_control(url), "-m", "immediate", "restart")


@contextlib.contextmanager
def stopped(url: str) -> Iterator[None]:
    """The cluster at a URL is down within the context."""
    control = _control(url)
    options = (Path(control[2]) / "postmaster.opts").read_text().split(maxsplit=1)[1].replace('"', "'")
    _run(*control, "-m", "immediate", "stop")
    try:
        yield
    finally:
        _run(*control, "-o", options.strip(), "start")


def _control(url: str) -> tuple[str, ...]:
    """The command that controls the cluster, without its action."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        (data,) = connection.execute("SHOW data_directory").fetchone() or ("",)
    control = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))[-1]
    return str(control), "-D", data, "-l", str(Path(data).parent / "log"), "-w"


def _run(*command: object) -> None:
    """The server refuses to run as root."""
    prefix = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
    # Not captured by pipes: the server would inherit them and keep them open.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [*prefix, *map(str, command)], cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
        output.seek(0)
        assert done.returncode == 0, output.read().decode()
