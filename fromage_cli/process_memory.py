"""How much memory this process has held."""

import re
import sys
from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
WHOLE_MACHINE = Path("/proc/meminfo")
CONFINED = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""What a container may use, and what it uses, in both ways of telling it."""
M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 4 << 20
"""glibc's number of that setting (malloc.h), and what it is set to."""


def peak_memory() -> int | None:
    """Bytes held at most where the computing is done: on CUDA devices once one is in use, else in main memory.

    It is what `--max-memory` limits and what `--estimate` foretells. torch is not imported to find out.
    """
    on_devices = peak_device_memory()
    return largest_resident() if on_devices is None else on_devices


def peak_device_memory() -> int | None:
    """Bytes that torch has allocated at most on CUDA devices, together; None where none is in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return sum(int(torch.cuda.max_memory_allocated(index)) for index in range(torch.cuda.device_count()))


def largest_resident() -> int | None:
    """Bytes of main memory that this process has held at most; None where nothing tells.

    On Linux from its status: `getrusage` begins there with what the process that started this one held, however much.
    """
    found = _kernel_count("VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def available_memory() -> int | None:
    """Bytes of main memory that can still be had, of the machine or the container; None where nothing tells."""
    found = []
    try:
        told = re.search(rb"^MemAvailable:\s+(\d+) kB", WHOLE_MACHINE.read_bytes(), re.MULTILINE)
        found += [int(told[1]) * 1024] if told is not None else []
    except OSError:
        pass
    for most, used in CONFINED:
        try:
            found.append(max(0, int(most.read_bytes()) - int(used.read_bytes())))
        except (OSError, ValueError):  # `max`: no limit
            continue
    return min(found, default=None)


def data_held() -> int | None:
    """Bytes that this process has allocated, touched or not, as RLIMIT_DATA counts them; None where nothing tells."""
    return _kernel_count("VmData")


def _kernel_count(name: str) -> int | None:
    """Bytes that the kernel counts for this process under this name; None where it does not."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB".encode(), STATUS.read_bytes(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found is not None else None


def give_back_large_blocks() -> None:
    """From now on memory of LARGE_BLOCK bytes or more goes back to the system once it is freed, under glibc.

    glibc raises that limit by itself to 32 MB, and keeps what lies between blocks that are still held.
    """
    import ctypes

    with suppress(OSError, AttributeError):  # another system, or another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
