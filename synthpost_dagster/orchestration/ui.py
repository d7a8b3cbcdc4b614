"""The Dagster UI of one study: the webserver in this process, the daemon and the code server in child processes.

`dagster dev` does the same but answers every request; here `ui_guard` decides which requests are answered.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from dagster import DagsterInstance

from synthpost_dagster.errors import SpecError
from synthpost_dagster.orchestration.ui_guard import LOOPBACK, HostGuard
from synthpost_dagster.runtime.processes import end_with_parent, resend_lost_interrupts
from synthpost_dagster.settings import Settings

MODULE = "synthpost_dagster.definitions"
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - named, not bound
CLOSING_SECONDS = 5
"""Seconds that open connections get to close when the UI stops."""
ENDING_SECONDS = 30.0


def serve(settings: Settings, host: str, port: int, allowed: Sequence[str], read_only: bool) -> None:
    """Serves the UI until it is interrupted; then all child processes have ended.

    Raises SpecError where nothing can listen on the host and port.
    """
    import uvicorn
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context
    from dagster_webserver.version import __version__

    resend_lost_interrupts()
    names = {*LOOPBACK, *allowed, *({host} - set(ANY_ADDRESS))}
    with (
        contextlib.suppress(KeyboardInterrupt),
        _listening(host, port) as listener,
        DagsterInstance.from_config(str(settings.dagster_home)) as instance,
        _code_server(instance) as workspace,
        _daemon(workspace),
        WorkspaceProcessContext(
            instance, WorkspaceFileTarget([workspace]), version=__version__, read_only=read_only
        ) as context,
    ):
        app = HostGuard(create_app_from_workspace_process_context(context), names)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=CLOSING_SECONDS)
        shown = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"Serving the Dagster UI on http://{shown}:{port}; Ctrl-C ends it\n")
        sys.stdout.flush()
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise SpecError(
            f"nothing can listen on {host}:{port} ({getattr(error, 'strerror', None) or error}); choose another port "
            "with --port, or another address of this machine with --host"
        ) from None


@contextlib.contextmanager
def _code_server(instance: DagsterInstance) -> Iterator[str]:
    """A server of the study's definitions for webserver and daemon; yields the workspace file that names it."""
    from dagster._cli.proxy_server_manager import ProxyServerManager
    from dagster._core.workspace.load_target import ModuleTarget

    target = ModuleTarget(module_name=MODULE, attribute=None, working_directory=str(Path.cwd()), location_name=None)
    with ProxyServerManager(instance, target, "WARNING") as manager, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "workspace.yaml"
        specs = [{kind: dict(spec) for kind, spec in one.items()} for one in manager.get_code_server_specs()]
        file.write_text(yaml.safe_dump({"load_from": specs}), encoding="utf-8")
        yield str(file)


@contextlib.contextmanager
def _daemon(workspace: str) -> Iterator[None]:
    """The process that runs schedules, the sensor and the run queue; if it ends, the UI ends."""
    process = multiprocessing.get_context("spawn").Process(target=_run_daemon, args=(workspace,), name="daemon")
    process.start()
    is_over = threading.Event()

    def watch() -> None:
        process.join()
        if not is_over.is_set():
            sys.stderr.write("synthpost: the daemon of the UI ended; start the UI again\n")
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
        process.terminate()
        process.join(ENDING_SECONDS)
        process.kill()
        process.join()


def _run_daemon(workspace: str) -> None:
    from dagster._daemon.cli import run_command

    threading.Thread(target=end_with_parent, daemon=True).start()
    run_command.main(["--workspace", workspace, "--log-level", "info"], standalone_mode=False)
