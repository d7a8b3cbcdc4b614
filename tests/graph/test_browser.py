"""What people see, in a real browser: the page, and the lineage in the Dagster UI."""

import html
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_study import BIN

from synthpost_dagster.stages.models import predictions_plan

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@pytest.fixture(autouse=True)
def browser() -> None:
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("no Chromium on this machine; CI installs one (Debian: apt-get install chromium)")
    assert CHROMIUM is not None


def shown(url: str, tmp_path: Path, milliseconds: int, width: int = 1280) -> str:
    """The document as it stands after its scripts have run."""
    done = subprocess.run(
        [
            str(CHROMIUM),
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--virtual-time-budget={milliseconds}",
            f"--window-size={width},1400",
            "--dump-dom",
            url,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_the_page_shows_every_cell_and_its_posts_from_the_file_alone(whole, tmp_path: Path) -> None:
    page = whole.study.home / "report" / "index.html"
    document = shown(page.as_uri(), tmp_path, 3_000)
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<script.*?</script>", " ", document, flags=re.S))
    text = " ".join(html.unescape(text).split())
    study = whole.study.open()
    for cell in study.cells:
        length = cell.steps.replace("-", " ") if "epoch" in cell.steps else f"{cell.steps} steps"
        assert f"{cell.data_size} rows | {length}" in text
    made = [study.store.read_table(study.store.need(predictions_plan(study, cell), "")) for cell in study.cells]
    posts = [post for table in made for post in table["post"]]
    assert any(" ".join(post.split()) in text for post in posts), "the script shows no post"


def test_the_page_does_not_scroll_sideways_on_a_phone(whole, tmp_path: Path) -> None:
    shutil.copy(whole.study.home / "report" / "index.html", tmp_path / "page.html")
    (tmp_path / "phone.html").write_text(
        """<iframe id=phone src="page.html" style="width:375px;height:800px;border:0"></iframe>
        <p id=width></p><script>setTimeout(() => {
          const inside = document.getElementById("phone").contentDocument.documentElement;
          document.getElementById("width").textContent = `${inside.scrollWidth} of ${inside.clientWidth}`;
        }, 1500)</script>""",
        encoding="utf-8",
    )
    with serving(tmp_path) as port:
        document = shown(f"http://127.0.0.1:{port}/phone.html", tmp_path, 4_000)
    found = re.search(r'<p id="width">(\d+) of (\d+)</p>', document)
    assert found, "the frame told no width"
    assert int(found[1]) <= int(found[2]) <= 375


def test_the_lineage_in_the_ui_shows_every_stage(whole, tmp_path: Path, until) -> None:
    port = free_port()
    with subprocess.Popen(
        [str(BIN / "dagster-webserver"), "-m", "synthpost_dagster.definitions", "-h", "127.0.0.1", "-p", str(port)],
        env=whole.study.environment(DAGSTER_HOME=str(whole.study.home / "dagster")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            until("the web server", lambda: answers(port))
            document = shown(f"http://127.0.0.1:{port}/asset-groups", tmp_path, 20_000, width=2600)
        finally:
            server.terminate()
    for group in (
        "catalog",
        "prompts",
        "rows",
        "subsets",
        "adapters",
        "baselines",
        "predictions",
        "verdicts",
        "report",
    ):
        assert re.search(rf">{group}<", document), f"the lineage does not show {group}"


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """The folder over HTTP on the loopback, so that a page may look into a frame of its own origin."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
