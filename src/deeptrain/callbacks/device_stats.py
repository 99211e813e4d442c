"""`DeviceStats`: how much memory a run takes, of the process and of its accelerator."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from deeptrain.callbacks.gauge import Gauge

if TYPE_CHECKING:
    from deeptrain.trainer import Trainer

MIB = 1 << 20


class DeviceStats(Gauge):
    """Reads memory, in bytes.

    - `rss`: what the process has resident now (Linux), `rss_peak`: the most it had (not on Windows).
    - `device_allocated`, `device_reserved`, `device_peak`: what tensors take of the accelerator's memory now, what the
      allocator holds of it, and the most that tensors took; where there is an accelerator that says so.

    Reading does not wait for the accelerator.

    Args:
        every: When to read; by default every 30 seconds.
        sink: Called with each reading, a dict of numbers; by default it is printed, in MiB.

    Attributes:
        last: The newest reading; empty before the first. It is no part of the state.

    Example:
        >>> DeviceStats(Every(epochs=1)).last
        {}
    """

    def read(self, trainer: Trainer, seconds: float) -> dict[str, float]:
        """The memory of now."""
        del seconds
        return {**process_memory(), **device_memory(trainer.learner.device)}

    def in_words(self) -> str:
        """Each reading in MiB."""
        return "  ".join(f"{name} {value / MIB:.0f} MiB" for name, value in self.last.items())


def process_memory() -> dict[str, float]:
    """The process's resident memory in bytes, as far as the system tells it."""
    found: dict[str, float] = {}
    pages = Path("/proc/self/statm")
    if pages.exists():
        found["rss"] = float(int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - there is none on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        found["rss_peak"] = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    return found


def device_memory(device: torch.device | None) -> dict[str, float]:
    """An accelerator's memory in bytes; nothing for the CPU."""
    if device is None or device.type == "cpu":
        return {}
    if device.type == "mps":
        return {
            "device_allocated": float(torch.mps.current_allocated_memory()),
            "device_reserved": float(torch.mps.driver_allocated_memory()),
        }
    module = torch.get_device_module(device)
    asked = {
        "device_allocated": "memory_allocated",
        "device_reserved": "memory_reserved",
        "device_peak": "max_memory_allocated",
    }
    return {name: float(getattr(module, ask)(device)) for name, ask in asked.items() if hasattr(module, ask)}
