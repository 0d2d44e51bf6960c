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
OWN_GROUPS = Path("/proc/self/cgroup")
NO_LIMIT = 1 << 60
"""Bytes from which on the older way of telling means that there is no limit."""
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
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():  # another module of that name
        return None
    return sum(int(torch.cuda.max_memory_allocated(index)) for index in range(torch.cuda.device_count()))


def largest_resident() -> int | None:
    """Bytes of main memory that this process has held at most; None where nothing tells.

    On Linux from its status: `getrusage` begins there with what the process that started this one held, however much.
    """
    found = _kernel_count("VmHWM", STATUS)
    if found is not None:
        return found
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine_memory() -> int | None:
    """Bytes of main memory that the machine has; None where nothing tells."""
    return _kernel_count("MemTotal", WHOLE_MACHINE)


def memory_limit() -> int | None:
    """Bytes that the container, the batch job or another control group of this process may use; None without a limit.

    The least of those of its own group and of all groups above. Files that hold no number are left out.
    """
    try:
        groups = [line.split(":", 2) for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        groups = []
    places = [most for most, _ in CONFINED]
    for group in groups:
        for (most, _), controller in zip(CONFINED, ("", "memory"), strict=True):
            if len(group) == 3 and controller in group[1].split(","):
                own = Path(most.parent, group[2].lstrip("/"))
                places += [
                    directory / most.name for directory in (own, *own.parents) if most.parent in directory.parents
                ]
    found = []
    for place in places:
        try:
            found.append(int(place.read_bytes()))
        except (OSError, ValueError):  # `max`: no limit
            continue
    return min((limit for limit in found if limit < NO_LIMIT), default=None)


def available_memory() -> int | None:
    """Bytes of main memory that can still be had, of the machine or the container; None where nothing tells."""
    told = _kernel_count("MemAvailable", WHOLE_MACHINE)
    found = [] if told is None else [told]
    for most, used in CONFINED:
        try:
            found.append(max(0, int(most.read_bytes()) - int(used.read_bytes())))
        except (OSError, ValueError):  # `max`: no limit
            continue
    return min(found, default=None)


def data_held() -> int | None:
    """Bytes that this process has allocated, touched or not, as RLIMIT_DATA counts them; None where nothing tells."""
    return _kernel_count("VmData", STATUS)


def _kernel_count(name: str, place: Path) -> int | None:
    """Bytes that the kernel counts under this name, for this process or the machine; None where it does not."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB".encode(), place.read_bytes(), re.MULTILINE)
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
