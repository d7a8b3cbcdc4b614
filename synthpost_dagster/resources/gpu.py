"""Device leases as a resource; `runtime.devices` implements them."""

from dagster import ConfigurableResource
from pydantic import Field

from synthpost_dagster.runtime.devices import Devices

POOL = "gpu"
"""The pool of every step that holds a model; its limit is `max_concurrent_runs`."""


class GpuResource(ConfigurableResource[Devices]):
    """Leases of the device, valid across processes; the pool `gpu` limits the same steps inside Dagster."""

    device: str = Field(default="auto", description="auto, cpu or cuda; auto falls back to the CPU")
    max_concurrent_runs: int = Field(default=1, description="Leases of one device at the same time")
    memory_gib: float | None = Field(
        default=None, description="Maximum GPU memory of a lease; by default an equal share"
    )
    cpu_threads: int | None = Field(default=None, description="torch's threads on the CPU; by default one per core")

    def devices(self) -> Devices:
        """The plain object that leases the device."""
        return Devices(self.device, self.max_concurrent_runs, cpu_threads=self.cpu_threads, memory_gib=self.memory_gib)
