"""The limits a user set on time and memory, looked at between evaluations."""

import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fromage_cli import ranks, stopping
from fromage_cli.errors import ResourceError
from fromage_cli.process_memory import available_memory, peak_memory

if TYPE_CHECKING:
    import torch


STACK = 8 << 20
"""Bytes that a thread of torch may reserve without using them."""
RESERVE = 256 << 20
"""Bytes that allocators may hold, beyond what is used, before an allocation fails."""


@dataclass
class Budget:
    """Seconds and bytes that may be used; None is no limit."""

    seconds: float | None = None
    memory: int | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.seconds is not None or self.memory is not None:
            stopping.watch(self.reached)

    def check(self) -> None:
        """Raises ResourceError when a limit is reached, and whatever else is a reason to stop."""
        stopping.check()
        reached = self.reached()
        if self.seconds is None and self.memory is None:
            return
        if ranks.current().any(reached is not None):
            raise reached or ResourceError("A limit was reached on another rank.", "Raise it, or ask for less.")

    def left(self) -> float | None:
        """Seconds until the time limit, below zero once it is reached; None without one."""
        return None if self.seconds is None else self.started + self.seconds - time.monotonic()

    def reached(self) -> ResourceError | None:
        """The limit that is reached, if one is."""
        elapsed = time.monotonic() - self.started
        if self.seconds is not None and elapsed > self.seconds:
            limit = round(self.seconds, 1) if self.seconds >= 0.5 else self.seconds  # as it was given, or nearly
            return ResourceError(
                f"The time limit of {limit:g} s was reached after {elapsed:.1f} s.",
                "Raise --time-limit, ask for less, or use a smaller batch. --estimate shows the cost beforehand.",
            )
        if self.memory is not None and (peak := peak_memory() or 0) > self.memory:
            return ResourceError(
                f"The memory limit of {self.memory / 1000000.0:.0f} MB was exceeded: {peak / 1000000.0:.0f} "
                "MB are in use.",
                "Raise --max-memory, give --micro-batch, or use a smaller batch. --estimate shows the cost beforehand.",
            )
        return None

    def confine(self, device: "torch.device") -> None:
        """Let an allocation fail that goes beyond the memory limit; in main memory, far beyond it."""
        import torch

        if self.memory is None:
            return
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.memory / total), device)
        elif (resident := resident_memory()) is not None:
            reserve = RESERVE + 2 * STACK * torch.get_num_threads()
            stopping.limit_data(max(0, self.memory - resident) + reserve)


def free_memory(device: "torch.device", budget: Budget) -> int | None:
    """Bytes that can still be had where the computing is done, within the user's limit; None where nothing tells."""
    import torch

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if budget.memory is None:
        return free
    left = max(0, budget.memory - (peak_memory() or 0))
    return left if free is None else min(free, left)


def resident_memory() -> int | None:
    """Bytes: what this process holds now, or has allocated on an accelerator it uses; None where nothing tells."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return int(torch.cuda.memory_allocated())
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * resource.getpagesize()
