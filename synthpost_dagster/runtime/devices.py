"""The device that models run on, and the lease that lets one process at a time work on it.

The lease is a file lock a device and slot, machine-wide, so that it holds between processes and homes. What runs
under it is not known here.
"""

from __future__ import annotations

import contextlib
import errno
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
"""What the messages of torch, the CUDA driver and cuBLAS have in common."""
LOCK_FOLDER = Path(tempfile.gettempdir()) / "synthpost-devices"
LOCK_REMEDY = "remove it, or set TMPDIR to a folder of your own"
SHARED = 0o1777
"""Everybody may make files, and replace none but their own."""


@dataclass(frozen=True)
class Device:
    """`name` is torch's (`cpu`, `cuda:0`); `uuid` names the hardware, whatever the order it is listed in."""

    name: str
    uuid: str
    label: str
    limit_gib: float | None = None
    """The most memory that a lease may take of a GPU; None: all."""


@dataclass
class Lease:
    """A held device."""

    device: Device

    def take_peak_gib(self) -> float:
        """The most memory in use since the lease began, or since this was asked last."""
        peak = _peak_gib(self.device)
        _reset_peak(self.device)
        return round(peak, 3)


class Devices:
    """Hands out leases on `auto`, `cpu` or `cuda`, at most `slots` at a time for each device.

    A lease may take `memory_gib` of a GPU; without it all, or an equal share where there are several slots.
    """

    def __init__(
        self,
        wanted: str,
        slots: int = 1,
        folder: Path = LOCK_FOLDER,
        cpu_threads: int | None = None,
        memory_gib: float | None = None,
    ) -> None:
        self.wanted, self.slots, self.folder, self.cpu_threads = wanted, slots, folder, cpu_threads
        self.memory_gib = memory_gib

    @contextlib.contextmanager
    def lease(
        self,
        memory_gib: float,
        timeout_seconds: float = 6 * 3600,
        waiting: Callable[[str], None] = lambda _: None,
    ) -> Iterator[Lease]:
        """Waits for the device, holds it, and frees its memory on every way out.

        `waiting` is told once when another process holds it. Raises DeviceError when there is no such device, when
        fewer than `memory_gib` are free on it, or after `timeout_seconds`.
        """
        device, lock = self._acquire(self.candidates(), timeout_seconds, waiting)
        lease = Lease(device)
        try:
            _refuse_short_memory(device, memory_gib)
            _reset_peak(device)
            _limit_memory(device)
            self._limit_threads(device)
            yield lease
        except BaseException as error:
            let_go(error)
            raise
        finally:
            _free_memory(device)
            lock.release()

    def _limit_threads(self, device: Device) -> None:
        if device.name == "cpu" and self.cpu_threads is not None:
            import torch

            torch.set_num_threads(self.cpu_threads)

    def candidates(self) -> list[Device]:
        """The devices that will do, the GPU with most free memory first; `auto` takes the CPU where there is no GPU."""
        gpus = self._gpus() if self.wanted in ("auto", "cuda") else []
        if gpus:
            return sorted(gpus, key=free_gib, reverse=True)
        if self.wanted == "cuda":
            raise DeviceError(
                "the profile asks for CUDA and torch sees no such device; set device.device to auto or cpu"
            )
        return [Device("cpu", "cpu", "CPU")]

    def _acquire(
        self, devices: list[Device], timeout: float, waiting: Callable[[str], None]
    ) -> tuple[Device, FileLock]:
        """The first free slot of the first device that has one."""
        _prepare_lock_folder(self.folder)
        places = [
            (device, FileLock(self.folder / f"{device.uuid}-{slot}.lock", mode=0o666))
            for device in devices
            for slot in range(self.slots)
        ]
        labels = " and ".join(device.label for device in devices)
        deadline, is_told = time.monotonic() + timeout, False
        while True:
            for device, lock in places:
                if _is_acquired(lock):
                    return device, lock
            if time.monotonic() >= deadline:
                raise DeviceError(
                    f"{labels} is held by another process and was not freed within {timeout:.0f} s; "
                    "wait for that run or stop it"
                )
            if not is_told:
                waiting(f"{labels} is held by another process; waiting for it")
                is_told = True
            time.sleep(0.2)

    def _gpus(self) -> list[Device]:
        import torch

        found = []
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            share = card.total_memory / GIB / self.slots if self.slots > 1 else None
            label = f"{card.name} (cuda:{index})"
            found.append(Device(f"cuda:{index}", str(card.uuid), label, self.memory_gib or share))
        return found


def _prepare_lock_folder(folder: Path) -> None:
    """Makes the folder of locks, for every user of the machine as `/tmp` is: each deletes and renames their own files.

    Raises DeviceError where it is a link, where another user could put files in the place of ours, or where it cannot
    be made. The mode of a folder that belongs to someone else is never changed.
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
            folder.chmod(SHARED)  # made by an earlier version
            is_sticky = True
    except OSError as error:
        raise DeviceError(f"{folder}: locks cannot be kept there ({error.strerror}); {LOCK_REMEDY}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise DeviceError(f"{folder}: locks are not kept there, since it is a link or a file; {LOCK_REMEDY}")
    if is_open and not is_sticky:
        raise DeviceError(
            f"{folder}: locks are not kept there, since every user may replace files in it and it has no sticky bit; "
            f"its owner sets it with `chmod 1777`, or {LOCK_REMEDY}"
        )


def _is_acquired(lock: FileLock) -> bool:
    """Whether the lock was free. Raises DeviceError where its file is a link, or cannot be opened."""
    path = Path(lock.lock_file)
    try:
        if path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as error:
        raise DeviceError(f"{path}: this lock cannot be opened ({error.strerror}); delete it") from None
    return True


def let_go(error: BaseException) -> None:
    """Clears the frames of an error and of those it came from: they hold the model that is to be freed."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        traceback.clear_frames(cause.__traceback__)
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is torch's own error for a lack of memory, or a plain one of the CUDA driver or cuBLAS."""
    import torch

    is_told = isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)
    return isinstance(error, torch.OutOfMemoryError) or is_told


@contextlib.contextmanager
def memory_for(device: Device, work: str, remedy: str) -> Iterator[None]:
    """Turns a lack of the device's memory during some work into a DeviceError with the remedy."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(f"{device.label} ran out of memory {work}; {remedy}") from error


def free_gib(device: Device) -> float:
    """Free memory of the device in GiB."""
    if device.name == "cpu":
        import psutil

        return float(psutil.virtual_memory().available) / GIB
    import torch

    free = float(torch.cuda.mem_get_info(device.name)[0]) / GIB
    if device.limit_gib is None:
        return free
    return min(free, device.limit_gib - float(torch.cuda.memory_reserved(device.name)) / GIB)


def free_workspaces(name: str) -> None:
    """Frees what cuBLAS holds for its work on a GPU, once all that was told is done; it takes more when it needs it."""
    import torch

    torch.cuda.synchronize(name)
    torch._C._cuda_clearCublasWorkspaces()


def _limit_memory(device: Device) -> None:
    """Holds torch to the lease's share, so that another slot's work does not run out of memory instead."""
    if device.name == "cpu":
        return
    import torch

    total = torch.cuda.get_device_properties(device.name).total_memory / GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, (device.limit_gib or total) / total), device.name)


def _refuse_short_memory(device: Device, memory_gib: float) -> None:
    free = free_gib(device)
    if free < memory_gib:
        raise DeviceError(
            f"{device.label} has {free:.1f} GiB free and this work needs {memory_gib:.1f}; "
            "stop what else uses it, raise device.memory_gib where it is set, or lower the model's own memory_gib in "
            "the profile"
        )


def _reset_peak(device: Device) -> None:
    if device.name == "cpu":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return
    import torch

    torch.cuda.reset_peak_memory_stats(device.name)


def _peak_gib(device: Device) -> float:
    """Most memory in use since `_reset_peak`: reserved by torch on a GPU, resident in this process on the CPU.

    Where the kernel keeps no resettable mark, the process's mark since it started stands in.
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


def _free_memory(device: Device) -> None:
    gc.collect()
    if device.name != "cpu":
        import torch

        torch.cuda.empty_cache()
