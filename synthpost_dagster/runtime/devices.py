"""Devices that models run on, and leases that limit how many processes use a device at once.

A lease is a file lock for a device and a place on it. It is valid for the whole machine, across processes and homes.
"""

import contextlib
import gc
import os
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from synthpost_dagster.errors import DeviceError

GIB = 1024**3
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED")
"""Parts of the messages of torch, the CUDA driver and cuBLAS."""
LOCK_FOLDER = Path(tempfile.gettempdir()) / "synthpost-devices"
LOCK_REMEDY = "remove it, or set TMPDIR to a folder of your own"
SHARED = 0o1777
"""Every user may create files, and replace only their own."""


@dataclass(frozen=True)
class Device:
    """`name` is torch's (`cpu`, `cuda:0`); `uuid` identifies the hardware; `limit_gib` is a lease's GPU memory."""

    name: str
    uuid: str
    label: str
    limit_gib: float | None = None


@dataclass
class Lease:
    """A leased device."""

    device: Device

    def take_peak_gib(self) -> float:
        """The peak of memory in use since the lease began or since the last call."""
        peak = _peak_gib(self.device)
        _reset_peak(self.device)
        return round(peak, 3)


@dataclass
class Devices:
    """Leases devices for `auto`, `cpu` or `cuda`, at most `max_leases` per device at a time.

    A lease may use `memory_gib` of a GPU; by default all of it, or an equal share if there are several leases.
    """

    wanted: str
    max_leases: int = 1
    folder: Path = LOCK_FOLDER
    cpu_threads: int | None = None
    memory_gib: float | None = None

    @contextlib.contextmanager
    def lease(
        self,
        memory_gib: float,
        timeout_seconds: float = 6 * 3600,
        waiting: Callable[[str], None] = lambda _: None,
    ) -> Iterator[Lease]:
        """Waits for a device, holds it for the duration of the context, and frees its memory.

        `waiting` gets one message if all places are taken. Raises DeviceError if there is no such device, if it has
        less than `memory_gib` free, or after `timeout_seconds`.
        """
        device, lock = self._acquire(self.candidates(), timeout_seconds, waiting)
        try:
            if (free := free_gib(device)) < memory_gib:
                raise DeviceError(
                    f"{device.label} has {free:.1f} GiB free and this work needs {memory_gib:.1f}; stop what else uses "
                    "it, raise device.memory_gib if it is set, or lower the model's own memory_gib in the profile"
                )
            _reset_peak(device)
            _limit_memory(device)
            if device.name == "cpu" and self.cpu_threads is not None:
                import torch

                torch.set_num_threads(self.cpu_threads)
            yield Lease(device)
        except BaseException as error:
            clear_frames(error)
            raise
        finally:
            free_memory(device)
            lock.release()

    def candidates(self) -> list[Device]:
        """The possible devices, the GPU with the most free memory first; `auto` falls back to the CPU.

        Raises DeviceError if the profile requires CUDA and torch finds no GPU.
        """
        gpus = self._gpus() if self.wanted in ("auto", "cuda") else []
        if gpus:
            return sorted(gpus, key=free_gib, reverse=True)
        if self.wanted == "cuda":
            raise DeviceError(
                "the profile requires CUDA and torch finds no such device; set device.device to auto or cpu"
            )
        return [Device("cpu", "cpu", "CPU")]

    def _acquire(
        self, devices: list[Device], timeout: float, waiting: Callable[[str], None]
    ) -> tuple[Device, FileLock]:
        """The first free place on the first device that has one."""
        _prepare_lock_folder(self.folder)
        places = [
            (device, FileLock(self.folder / f"{device.uuid}-{place}.lock", mode=0o666))
            for device in devices
            for place in range(self.max_leases)
        ]
        labels = " and ".join(device.label for device in devices)
        deadline, is_reported = time.monotonic() + timeout, False
        while True:
            for device, lock in places:
                if _is_acquired(lock):
                    return device, lock
            if time.monotonic() >= deadline:
                raise DeviceError(
                    f"{labels} is held by another process and was not freed within {timeout:.0f} s; "
                    "wait for that run or stop it"
                )
            if not is_reported:
                waiting(f"{labels} is held by another process; waiting for it")
                is_reported = True
            time.sleep(0.2)

    def _gpus(self) -> list[Device]:
        import torch

        found = []
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            share = card.total_memory / GIB / self.max_leases if self.max_leases > 1 else None
            label = f"{card.name} (cuda:{index})"
            found.append(Device(f"cuda:{index}", str(card.uuid), label, self.memory_gib or share))
        return found


def _prepare_lock_folder(folder: Path) -> None:
    """Creates the folder of locks for all users of the machine, with the permissions of `/tmp`.

    Raises DeviceError if it is a link, if another user could replace our files, or if it cannot be created. It never
    changes the mode of another user's folder.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(SHARED)
        found = folder.lstat()
        is_ours, is_open = found.st_uid == os.geteuid(), bool(found.st_mode & stat.S_IWOTH)
        is_sticky = bool(found.st_mode & stat.S_ISVTX)
        if is_ours and stat.S_ISDIR(found.st_mode) and is_open and not is_sticky:
            folder.chmod(SHARED)  # created by an earlier version
            is_sticky = True
    except OSError as error:
        raise DeviceError(f"{folder}: cannot hold locks ({error.strerror}); {LOCK_REMEDY}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise DeviceError(f"{folder}: cannot hold locks, because it is a link or a file; {LOCK_REMEDY}")
    if is_open and not is_sticky:
        raise DeviceError(
            f"{folder}: cannot hold locks, because every user may replace files in it and it has no sticky bit; "
            f"its owner sets it with `chmod 1777`, or {LOCK_REMEDY}"
        )


def _is_acquired(lock: FileLock) -> bool:
    """Whether the lock was free. Raises DeviceError if its file is a link, or cannot be opened."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as error:
        raise DeviceError(f"{lock.lock_file}: this lock cannot be opened ({error.strerror}); delete it") from None
    return True


def clear_frames(error: BaseException) -> None:
    """Clears the frames of an error and of its causes: they reference the model whose memory is to be freed."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        traceback.clear_frames(cause.__traceback__)
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, the CUDA driver or cuBLAS ran out of memory."""
    import torch

    is_named = isinstance(error, RuntimeError) and any(part in str(error) for part in OUT_OF_MEMORY)
    return isinstance(error, torch.OutOfMemoryError) or is_named


@contextlib.contextmanager
def memory_for(device: Device, work: str, remedy: str) -> Iterator[None]:
    """Raises DeviceError with the remedy if the device runs out of memory in the context."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(f"{device.label} ran out of memory {work}; {remedy}") from error


def free_gib(device: Device) -> float:
    """Free memory of the device in GiB, within its limit."""
    if device.name == "cpu":
        import psutil

        return float(psutil.virtual_memory().available) / GIB
    import torch

    free = float(torch.cuda.mem_get_info(device.name)[0]) / GIB
    limit = device.limit_gib
    return free if limit is None else min(free, limit - float(torch.cuda.memory_reserved(device.name)) / GIB)


def _limit_memory(device: Device) -> None:
    """Limits torch to the lease's share, so that other leases do not run out of memory."""
    if device.name == "cpu":
        return
    import torch

    total = torch.cuda.get_device_properties(device.name).total_memory / GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, (device.limit_gib or total) / total), device.name)


def _reset_peak(device: Device) -> None:
    if device.name == "cpu":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return
    import torch

    torch.cuda.reset_peak_memory_stats(device.name)


def _peak_gib(device: Device) -> float:
    """The peak since `_reset_peak` of memory reserved by torch on a GPU, or resident in this process on the CPU.

    If the kernel has no resettable peak, it is the peak since the process started.
    """
    if device.name != "cpu":
        import torch

        return float(torch.cuda.max_memory_reserved(device.name)) / GIB
    with contextlib.suppress(OSError, StopIteration, ValueError):
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024 / GIB
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / GIB


def free_memory(device: Device) -> None:
    """Collects garbage and frees what torch has cached on a GPU."""
    gc.collect()
    if device.name != "cpu":
        import torch

        torch.cuda.empty_cache()
