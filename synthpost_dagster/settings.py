"""Settings from the environment. No other module reads or writes environment variables.

SYNTHPOST_HOME     folder of runs, locks and the report; default `.synthpost` in the working directory
SYNTHPOST_TASK     name of a packaged task, or a task folder; default `sales_posts`
SYNTHPOST_PROFILE  name of a packaged profile, or a YAML file; default `tiny`
SYNTHPOST_JOURNAL  URL of the journal's database; default `journal.sqlite` in the home
XDG_CACHE_HOME     its folder `synthpost` caches digests of large weight files; default `~/.cache`

The profile names the variables that hold API keys.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from synthpost_dagster.errors import StorageError

if TYPE_CHECKING:
    from sqlalchemy import URL

_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
}


def keep_quiet() -> None:
    """Switches off telemetry of libraries before they are imported; variables that are set stay."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class Settings:
    """The settings of a process."""

    home: Path
    task: str
    profile: str
    journal: str | None = None

    @property
    def journal_url(self) -> str | URL:
        """URL of the journal of replies: SYNTHPOST_JOURNAL, or SQLite in the home."""
        from sqlalchemy import URL

        return self.journal or URL.create("sqlite", database=str(self.home / "journal.sqlite"))

    @property
    def dagster_home(self) -> Path:
        """DAGSTER_HOME, inside the home."""
        return self.home / "dagster"


def read_settings(home: str | None = None, task: str | None = None, profile: str | None = None) -> Settings:
    """Settings from the environment; arguments take precedence."""
    chosen = home or os.environ.get("SYNTHPOST_HOME") or ".synthpost"
    return Settings(
        home=Path(chosen).expanduser().absolute(),
        task=task or os.environ.get("SYNTHPOST_TASK") or "sales_posts",
        profile=profile or os.environ.get("SYNTHPOST_PROFILE") or "tiny",
        journal=os.environ.get("SYNTHPOST_JOURNAL") or None,
    )


def secret(name: str) -> str | None:
    """Value of the environment variable that holds an API key; None if unset or empty."""
    return os.environ.get(name) or None


def cache_folder() -> Path:
    """Folder of the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "synthpost"


def prepare(settings: Settings) -> None:
    """Creates the home with Dagster's `dagster.yaml`, and sets the environment of this process.

    Child processes (Dagster's daemon and its runs) inherit the variables, so that all use one study.
    Raises StorageError if the home cannot be written, its name is not valid text in this locale, or `dagster.yaml` is
    a broken link.
    """
    _refuse_undecoded(settings.home)
    instance = settings.dagster_home / "dagster.yaml"
    try:
        settings.dagster_home.mkdir(parents=True, exist_ok=True)
        probe_writing(settings.home)
        if not instance.exists():
            if instance.is_symlink():
                raise StorageError(f"{instance} is a broken link; delete it, and the next command writes the file")
            _write_new(instance, (resources.files("synthpost_dagster") / "orchestration" / "dagster.yaml").read_bytes())
    except OSError as error:
        raise StorageError(
            f"{settings.home}: the home folder cannot be written ({error.strerror}); "
            "make it writable or choose another with SYNTHPOST_HOME or --home"
        ) from None
    keep_quiet()
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    os.environ["SYNTHPOST_HOME"] = str(settings.home)
    os.environ["SYNTHPOST_TASK"] = settings.task
    os.environ["SYNTHPOST_PROFILE"] = settings.profile


def probe_writing(folder: Path) -> None:
    """Writes and deletes a temporary file in a folder. Raises OSError if that fails."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-") as probe:
        probe.write(b"probe")
        probe.flush()


def _refuse_undecoded(home: Path) -> None:
    """Python decodes such a name to lone surrogates, which pyarrow and Dagster reject."""
    try:
        str(home).encode("utf-8")
    except UnicodeEncodeError:
        raise StorageError(
            f"{home}: the name of the home folder is not valid text in this locale; set PYTHONUTF8=1 (or "
            "LC_ALL=C.UTF-8), or choose another folder with SYNTHPOST_HOME or --home"
        ) from None


def _write_new(path: Path, content: bytes) -> None:
    """Writes a file atomically; replaces a link of that name instead of following it."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
