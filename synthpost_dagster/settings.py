"""The only reader, and the only writer, of the environment.

SYNTHPOST_HOME     where runs, locks and the page live; default `.synthpost` below the working directory
SYNTHPOST_TASK     a packaged task's name or a task folder; default `sales_posts`
SYNTHPOST_PROFILE  a packaged profile's name or a YAML file; default `tiny`
SYNTHPOST_JOURNAL  URL of the journal's database; default `journal.sqlite` in the home
XDG_CACHE_HOME     where digests of large weight files are kept, in `synthpost`; default `~/.cache`

Keys of endpoints are looked up under the names that the profile gives.
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

DEFAULT_TASK = "sales_posts"
DEFAULT_PROFILE = "tiny"

_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
}


def keep_quiet() -> None:
    """Switches off what libraries would send, before they are imported; what the environment says stays."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class Settings:
    """What the environment says, read once."""

    home: Path
    task: str
    profile: str
    journal: str | None = None

    @property
    def journal_url(self) -> str | URL:
        """Where the journal of replies is: the URL that was given, else a file in the home, whatever its name."""
        from sqlalchemy import URL

        return self.journal or URL.create("sqlite", database=str(self.home / "journal.sqlite"))

    @property
    def dagster_home(self) -> Path:
        """Dagster's own folder, inside the home."""
        return self.home / "dagster"


def read_settings(home: str | None = None, task: str | None = None, profile: str | None = None) -> Settings:
    """Settings from the environment; an argument that is given wins over it."""
    chosen = home or os.environ.get("SYNTHPOST_HOME") or ".synthpost"
    return Settings(
        home=Path(chosen).expanduser().absolute(),
        task=task or os.environ.get("SYNTHPOST_TASK") or DEFAULT_TASK,
        profile=profile or os.environ.get("SYNTHPOST_PROFILE") or DEFAULT_PROFILE,
        journal=os.environ.get("SYNTHPOST_JOURNAL") or None,
    )


def secret(name: str) -> str | None:
    """The key in the environment variable of that name; None where it is not set."""
    return os.environ.get(name) or None


def cache_folder() -> Path:
    """The user's folder for what can be computed again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "synthpost"


def prepare(settings: Settings) -> None:
    """Makes the home, puts our `dagster.yaml` into Dagster's folder, and sets the environment for this process.

    Child processes (Dagster's daemon and its runs) inherit the three variables, so that all see one study.
    Raises StorageError when the home cannot be written, has a name that is not UTF-8 in this locale, or holds a link
    that leads nowhere in place of a file.
    """
    _refuse_undecoded(settings.home)
    instance = settings.dagster_home / "dagster.yaml"
    try:
        settings.dagster_home.mkdir(parents=True, exist_ok=True)
        probe_writing(settings.home)
        if not instance.exists():
            _refuse_link(instance)
            _write_new(instance, (resources.files("synthpost_dagster") / "orchestration" / "dagster.yaml").read_bytes())
    except OSError as error:
        raise StorageError(
            f"{settings.home}: the home folder cannot be written ({error.strerror}); "
            "free it or name another with SYNTHPOST_HOME or --home"
        ) from None
    keep_quiet()
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    os.environ["SYNTHPOST_HOME"] = str(settings.home)
    os.environ["SYNTHPOST_TASK"] = settings.task
    os.environ["SYNTHPOST_PROFILE"] = settings.profile


def probe_writing(folder: Path) -> None:
    """Writes a file of its own into a folder and deletes it. Raises OSError where that cannot be."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-") as probe:
        probe.write(b"written to see whether it can be")
        probe.flush()


def _refuse_undecoded(home: Path) -> None:
    """Python reads such a name as halves of surrogate pairs, which neither pyarrow nor the records of Dagster take."""
    try:
        str(home).encode("utf-8")
    except UnicodeEncodeError:
        raise StorageError(
            f"{home}: the name of the home folder cannot be read as text in the present locale; set PYTHONUTF8=1 (or "
            "LC_ALL=C.UTF-8), or name another folder with SYNTHPOST_HOME or --home"
        ) from None


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise StorageError(f"{path} is a link that leads nowhere; delete it, and it is written anew as a file")


def _write_new(path: Path, content: bytes) -> None:
    """Writes a file that is whole as soon as it has its name; a link of that name is replaced, never followed."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
