"""The device lease as a resource; the lease itself is in `devices`."""

from dagster import ConfigurableResource
from pydantic import Field

from synthpost_dagster.runtime.devices import Devices

POOL = "gpu"
"""The pool of every step that holds a model; its limit is the resource's slots."""


class GpuResource(ConfigurableResource[Devices]):
    """Serializes what holds a model on a device: `lease()` is held across processes, beside the pool `gpu`."""

    device: str = Field(default="auto", description="auto, cpu or cuda; auto takes the CPU where no GPU is seen")
    slots: int = Field(default=1, description="How many leases one device bears at a time")

    memory_gib: float | None = Field(default=None, description="Most GPU memory a lease may take; by default its share")
    cpu_threads: int | None = Field(default=None, description="torch's threads on the CPU; by default one a core")

    def devices(self) -> Devices:
        """The plain object that hands out leases."""
        return Devices(self.device, self.slots, cpu_threads=self.cpu_threads, memory_gib=self.memory_gib)
