"""Fault 10: a journal that is truncated or overwritten. Readable replies are copied, the rest is requested again."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from synthpost_dagster.errors import StorageError
from synthpost_dagster.llm import journal_files, journal_recovery
from synthpost_dagster.llm.journal import Reply
from synthpost_dagster.llm.journal_tables import HOLDERS, with_checksum
from tests.helpers.chat_child import Job, child
from tests.helpers.chat_server import ChatServer, Rule
from tests.helpers.hosted_models import answered, context_of, expected, hosted, prompts, texts_of

COUNT = 80
PAGE = 4_096
FILE = "journal.sqlite"
TEXTS = [f"{text} {'More of it. ' * 60}" for text in expected(prompts(COUNT))]
"""Long enough that the replies fill many pages."""


def put(content: bytes, start: int, garbage: bytes) -> bytes:
    return content[:start] + garbage + content[start + len(garbage) :]


def noise(size: int) -> bytes:
    return random.Random(7).randbytes(size)


def middle(content: bytes) -> int:
    """Start of the page in the middle."""
    return len(content) // PAGE // 2 * PAGE


HALF_WRITTEN: dict[str, Callable[[bytes], bytes]] = {
    "cut off within the header": lambda content: content[:50],
    "cut off after the first page": lambda content: content[:PAGE],
    "cut off in the middle of a page": lambda content: content[: middle(content) + 1_000],
    "cut off in the middle": lambda content: content[: middle(content)],
    "its first page zeroed": lambda content: put(content, 0, bytes(PAGE)),
    "pages in the middle overwritten": lambda content: put(content, middle(content), noise(3 * PAGE)),
    "pages in the middle zeroed": lambda content: put(content, middle(content), bytes(3 * PAGE)),
    "its second half zeroed": lambda content: put(content, middle(content), bytes(len(content) - middle(content))),
}


@pytest.fixture(scope="module")
def filled(_server: ChatServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal that was closed; tests copy it."""
    path = tmp_path_factory.mktemp("filled") / FILE
    _server.script(*(Rule(marker=prompt, text=text) for prompt, text in zip(prompts(COUNT), TEXTS, strict=True)))
    context = context_of(path)
    assert texts_of(answered(hosted(_server), context, prompts(COUNT))) == [text.strip() for text in TEXTS]
    vars(context.journal)["_engine"].dispose()
    assert not path.with_name(f"{FILE}-wal").exists()
    return path


def again(server: ChatServer, path: Path) -> list[Reply]:
    """The replies to the same prompts, from the journal or from the server."""
    server.script(*(Rule(marker=prompt, text=text) for prompt, text in zip(prompts(COUNT), TEXTS, strict=True)))
    return answered(hosted(server), context_of(path), prompts(COUNT))


def unclose(path: Path) -> None:
    """Leaves the journal as a killed process does."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE holders SET ended_at = NULL")
    connection.close()


@pytest.mark.parametrize("damage", HALF_WRITTEN.values(), ids=HALF_WRITTEN)
def test_fault_10_damaged_journal_is_moved_and_lost_replies_requested(
    server: ChatServer, filled: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = Path(shutil.copy(filled, tmp_path / FILE))
    unclose(path)
    before = damage(path.read_bytes())
    path.write_bytes(before)
    assert_recovered(server, path, before)


@pytest.mark.parametrize("name", ["pages in the middle overwritten", "its second half zeroed"])
def test_fault_10_journal_damaged_after_closing_is_moved_by_second_run(
    server: ChatServer, filled: Path, tmp_path: Path, name: str
) -> None:
    path = Path(shutil.copy(filled, tmp_path / FILE))
    path.write_bytes(HALF_WRITTEN[name](path.read_bytes()))
    with contextlib.suppress(StorageError):
        again(server, path)
    assert_recovered(server, path)


def assert_recovered(server: ChatServer, path: Path, before: bytes | None = None) -> None:
    assert [reply.text for reply in again(server, path)] == [text.strip() for text in TEXTS]
    lost = server.log().prompts
    assert len(lost) == len(set(lost)) <= COUNT
    (aside,) = path.parent.glob(f"{FILE}.damaged-*")
    assert before is None or aside.read_bytes() == before
    assert len(again(server, path)) == COUNT
    assert server.log().requests == [], "the recovered journal holds the requested replies"
    assert len(list(path.parent.glob(f"{FILE}.damaged-*"))) == 1


def test_fault_10_reply_whose_end_is_cut_off_is_requested_again(
    server: ChatServer, filled: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(filled, tmp_path / FILE))
    path.write_bytes(path.read_bytes()[:-100])
    assert [reply.text for reply in again(server, path)] == [text.strip() for text in TEXTS]
    assert len(server.log().requests) == 1


def test_fault_10_replies_before_and_after_the_damage_are_recovered(
    server: ChatServer, filled: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(filled, tmp_path / FILE))
    unclose(path)
    content = path.read_bytes()
    path.write_bytes(put(content, middle(content), noise(PAGE)))
    again(server, path)
    assert 0 < len(server.log().requests) < COUNT / 4


DIES = """
import os, signal, sys
from pathlib import Path
from synthpost_dagster.llm import journal_recovery
from synthpost_dagster.llm.journal import Journal

def dying(work, last):
    times = iter(range(1, last))
    return lambda *given: work(*given) if next(times, None) else os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "row":
    journal_recovery._intact_row = dying(journal_recovery._intact_row, int(sys.argv[3]))
else:
    Path.rename = dying(Path.rename, int(sys.argv[3]))
Journal(f"sqlite:///{sys.argv[1]}").summary()
"""


@pytest.mark.parametrize(("step", "number"), [("row", 1), ("row", 40), ("rename", 1), ("rename", 2), ("rename", 3)])
def test_fault_10_killed_recovery_continues_with_replies_and_spending(
    server: ChatServer, filled: Path, tmp_path: Path, step: str, number: int
) -> None:
    path, names = Path(shutil.copy(filled, tmp_path / FILE)), HOLDERS.columns.keys()
    with sqlite3.connect(path) as connection:
        row = dict(zip(names, connection.execute(f"SELECT {', '.join(names)} FROM holders").fetchone(), strict=True))
        row = with_checksum(HOLDERS, {**row, "process": "gone", "spent_usd": 1.5, "ended_at": None})
        sets = ", ".join(f"{name} = :{name}" for name in row)
        connection.execute(f"UPDATE holders SET {sets}", row)
    connection.close()
    content = path.read_bytes()
    path.write_bytes(put(content, middle(content), noise(PAGE)))
    done = subprocess.run([sys.executable, "-c", DIES, str(path), step, str(number)], check=False)
    assert done.returncode == -9, "it ended before it was killed"
    again(server, path)
    assert 0 < len(server.log().requests) < COUNT / 4
    assert context_of(path).journal.spending()[0]["spent_usd"] == 1.5
    assert len(list(tmp_path.glob(f"{FILE}.damaged-*[0-9]"))) == 1
    assert list(tmp_path.glob("*.cop*")) == []


def test_fault_10_locked_journal_is_not_treated_as_damaged(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (journal_files, journal_recovery):
        monkeypatch.setattr(module, "BUSY_SECONDS", 0.1)
    path = Path(shutil.copy(filled, tmp_path / FILE))
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="locked"):
            context_of(path).journal.summary()
    assert sorted(file.name for file in tmp_path.iterdir()) == [FILE, f"{FILE}.lock"]


@pytest.fixture(scope="module")
def killed(_server: ChatServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with its log, as a killed process left them half-way through sixty prompts; tests copy the folder."""
    _server.script(Rule(delay=0.02))
    folder, work = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("work")
    spec = hosted(_server, "groq", concurrency=4).model_dump()
    with child(Job("texts", f"sqlite:///{folder / FILE}", spec, prompts=prompts(60)), work) as process:
        _server.wait_for(lambda log: len(log.requests) >= 30)
        process.kill()
    return folder


@pytest.mark.parametrize("damage", ["whole", "cut off", "overwritten", "gone"])
def test_fault_10_damaged_log_of_a_killed_process_loses_only_its_content(
    server: ChatServer, killed: Path, tmp_path: Path, damage: str
) -> None:
    path = shutil.copytree(killed, tmp_path / "copy") / FILE
    spec = hosted(server, "groq", concurrency=4)
    log = path.with_name(f"{FILE}-wal")
    content = log.read_bytes()
    changed = {"cut off": content[: len(content) // 2 + 77], "overwritten": put(content, len(content) // 2, noise(999))}
    if damage == "gone":
        log.unlink()
    else:
        log.write_bytes(changed.get(damage, content))
    assert texts_of(answered(spec, context_of(path), prompts(60))) == expected(prompts(60))
    asked = len(server.log().requests)
    assert asked <= 60 - 30 + 4 + 1 if damage == "whole" else asked <= 60


def test_fault_10_damage_during_a_run_is_repaired_by_the_next_run(
    server: ChatServer, filled: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(filled, tmp_path / FILE))
    context = context_of(path)
    assert context.journal.find([]) == {}
    content = path.read_bytes()
    path.write_bytes(put(content, PAGE, noise(len(content) - PAGE)))
    with pytest.raises(StorageError, match=FILE):
        answered(hosted(server), context, prompts(COUNT))
    assert [reply.text for reply in again(server, path)] == [text.strip() for text in TEXTS]


def test_empty_file_is_an_empty_journal(server: ChatServer, tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    assert texts_of(answered(hosted(server), context_of(tmp_path / FILE), prompts(3))) == expected(prompts(3))
    assert list(tmp_path.glob("*.damaged*")) == []
