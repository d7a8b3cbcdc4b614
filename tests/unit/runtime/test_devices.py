"""Leases: one process at a time on a device, with enough memory, freed in every case."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from synthpost_dagster.errors import DeviceError
from synthpost_dagster.runtime.devices import Device, Devices, memory_for


@pytest.fixture
def devices(tmp_path: Path) -> Devices:
    return Devices("cpu", folder=tmp_path / "locks")


def is_free(devices: Devices) -> bool:
    """Whether another thread gets a lease at once."""
    found: list[bool] = []

    def ask() -> None:
        try:
            with devices.lease(0.001, timeout_seconds=0):
                found.append(True)
        except DeviceError:
            found.append(False)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(timeout=120)
    return found[0]


def test_lease_holds_the_device_and_frees_it(devices: Devices) -> None:
    with devices.lease(0.001) as lease:
        assert (lease.device.name, lease.device.label) == ("cpu", "CPU")
        assert not is_free(devices)
    assert is_free(devices)


def test_lease_reports_peak_memory_since_the_last_call(devices: Devices) -> None:
    with devices.lease(0.001) as lease:
        before = lease.take_peak_gib()
        block = np.ones(40_000_000)  # 0.3 GiB
        assert block[-1] == 1
        del block
        during, after = lease.take_peak_gib(), lease.take_peak_gib()
    for other in (before, after):
        assert other > 0
        assert during - other == pytest.approx(0.3, abs=0.15)


def test_device_is_freed_when_the_work_fails(devices: Devices) -> None:
    with pytest.raises(ValueError, match="the model broke"), devices.lease(0.001):
        raise ValueError("the model broke")
    assert is_free(devices)


def test_too_little_memory_is_refused_and_frees_the_device(devices: Devices) -> None:
    with pytest.raises(DeviceError) as caught, devices.lease(1e6):
        raise AssertionError("the work must not start")
    message = str(caught.value)
    assert message.startswith("CPU has ")
    assert "GiB free and this work needs 1000000.0" in message
    assert "memory_gib" in message
    assert is_free(devices)


def test_out_of_memory_names_the_device_the_work_and_the_remedy() -> None:
    device = Device("cuda:0", "uuid", "a card")
    text = r"a card ran out of memory while it looked; look away"
    for message in ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling"):
        with pytest.raises(DeviceError, match=text), memory_for(device, "while it looked", "look away"):
            raise RuntimeError(message)
    with pytest.raises(RuntimeError, match=r"^something else$"), memory_for(device, "while it looked", "look away"):
        raise RuntimeError("something else")


def test_lease_clears_the_frames_of_an_error_and_its_causes(devices: Devices) -> None:
    class Model:
        pass

    def fail() -> None:
        model = Model()
        held.append(weakref.ref(model))
        raise torch.OutOfMemoryError("CUDA out of memory")

    held: list[weakref.ref[Model]] = []
    try:
        with devices.lease(0.01), memory_for(Device("cpu", "cpu", "CPU"), "while it looked", "look away"):
            fail()
    except DeviceError as error:
        gc.collect()
        assert isinstance(error.__cause__, torch.OutOfMemoryError)
        assert held[0]() is None, "its memory is not freed with the lease"
    else:
        pytest.fail("no error")


def test_held_device_is_an_error_after_one_waiting_message(devices: Devices) -> None:
    messages: list[str] = []
    with (
        devices.lease(0.001),
        pytest.raises(DeviceError, match=r"CPU is held by another process and was not freed within"),
        devices.lease(0.001, timeout_seconds=0.7, waiting=messages.append),
    ):
        raise AssertionError("two may not work at once")
    assert messages == ["CPU is held by another process; waiting for it"]


def test_waiting_process_gets_the_device_once_it_is_free(devices: Devices) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        with devices.lease(0.001, timeout_seconds=20, waiting=lambda message: waiting.set()):
            order.append("second")

    with devices.lease(0.001):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(timeout=120)
        order.append("first")
    thread.join(timeout=120)
    assert order == ["first", "second"]


def test_two_places_allow_two_leases_and_no_third(tmp_path: Path) -> None:
    devices = Devices("cpu", max_leases=2, folder=tmp_path)
    with devices.lease(0.001):
        assert is_free(devices)
        with devices.lease(0.001):
            assert not is_free(devices)
        assert is_free(devices)


def test_lease_holds_between_processes_and_ends_with_them(devices: Devices) -> None:
    program = (
        "import sys; from pathlib import Path; from synthpost_dagster.runtime.devices import Devices\n"
        "with Devices('cpu', folder=Path(sys.argv[1])).lease(0.001):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(devices.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert not is_free(devices)
        process.kill()
        process.wait(timeout=120)
        assert is_free(devices)
    finally:
        process.kill()
        process.communicate()


def test_cuda_where_there_is_none_is_refused_with_the_key() -> None:
    import torch

    if torch.cuda.is_available():
        assert Devices("cuda").candidates()[0].name.startswith("cuda:")
        return
    with pytest.raises(DeviceError, match=r"set device\.device to auto or cpu"):
        Devices("cuda").candidates()
    assert [device.name for device in Devices("auto").candidates()] == ["cpu"]
