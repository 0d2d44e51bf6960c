"""The limits a user set on time and memory, looked at between evaluations."""

import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

from fromage_cli.errors import ResourceError
from fromage_cli.process_memory import peak_memory


@dataclass
class Budget:
    """Seconds and bytes that may be used; None is no limit."""

    seconds: float | None = None
    memory: int | None = None
    started: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raises ResourceError when a limit is reached."""
        elapsed = time.monotonic() - self.started
        if self.seconds is not None and elapsed > self.seconds:
            raise ResourceError(
                f"The time limit of {self.seconds:g} s was reached after {elapsed:.1f} s.",
                "Raise --time-limit, ask for less, or use a smaller batch; --estimate tells the cost.",
            )
        if self.memory is not None and (peak := peak_memory() or 0) > self.memory:
            raise ResourceError(
                f"The memory limit of {self.memory / 1e6:.0f} MB was passed: {peak / 1e6:.0f} MB are in use.",
                "Raise --max-memory, use --micro-batch or a smaller batch; --estimate tells the cost.",
            )


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
