"""The machine as this process sees it: processors, memory, accelerators, the terminal, temporary files."""

import os
import shutil
import tempfile
from pathlib import Path

from fromage_cli.doctor.result import Device, Memory, Processors, TemporaryDirectory, Terminal
from fromage_cli.errors import words_of
from fromage_cli.missing import Missing, Why
from fromage_cli.process_memory import available_memory, machine_memory, memory_limit
from fromage_cli.terminal import streams
from fromage_cli.terminal.colours import console_on

NOT_TOLD = Missing(Why.NOT_TOLD, "the system does not tell it")
NO_LIMIT = Missing(Why.NOT_DEFINED, "there is no limit")
NO_TORCH = Missing(Why.NOT_INSTALLED, "torch cannot be imported")


def processors(*, with_torch: bool) -> Processors:
    """How many processors this process may use, and with how many threads torch computes."""
    machine = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    threads: int | Missing = NO_TORCH
    if with_torch:
        import torch

        threads = torch.get_num_threads()
    return Processors(usable, machine, threads, os.environ.get("OMP_NUM_THREADS"))


def memory() -> Memory:
    """Main memory of the machine, what can still be had, and what this process may use."""
    machine, available, limit = machine_memory(), available_memory(), memory_limit()
    return Memory(
        NOT_TOLD if machine is None else machine,
        NOT_TOLD if available is None else available,
        NO_LIMIT if limit is None else limit,
    )


def devices() -> tuple[Device, ...]:
    """Every accelerator that torch sees; each CUDA device is asked for its free memory, and has to answer."""
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free: int | Missing
        try:
            free = torch.cuda.mem_get_info(index)[0]
        except RuntimeError as error:
            free = Missing(Why.NOT_EVALUATED, words_of(error).strip().splitlines()[0][:200].rstrip("."))
        found.append(Device(f"cuda:{index}", properties.name, properties.total_memory, free))
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU", NOT_TOLD, NOT_TOLD))
    return tuple(found)


def terminal() -> Terminal:
    """Where the answer is written, as this program takes it."""
    stream = streams.answer()
    ascii_only, width = streams.ascii_only(stream), streams.width(stream)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    colour = stream is not None and console_on(stream, stream, width).color_system is not None
    return Terminal(streams.is_terminal(stream), width, colour and not os.environ.get("NO_COLOR"), encoding, ascii_only)


def temporary_directory() -> TemporaryDirectory:
    """Where temporary files go, and the space that is left there; nothing is written yet."""
    try:
        place, wanted = tempfile.gettempdir(), os.environ.get("TMPDIR")
        passed_over = wanted if wanted and os.path.realpath(wanted) != os.path.realpath(place) else None
        return TemporaryDirectory(place, shutil.disk_usage(place).free, passed_over=passed_over)
    except OSError as error:
        reason = Missing(Why.NOT_TOLD, (error.strerror or words_of(error)).lower())
        return TemporaryDirectory(os.environ.get("TMPDIR", ""), reason)


def write_and_read(place: TemporaryDirectory) -> TemporaryDirectory:
    """The same, once tensors of four types were written there as safetensors, and read again."""
    from dataclasses import replace

    import torch
    from safetensors.torch import load_file, save_file

    whole = torch.arange(-128, 128, dtype=torch.float64) / 7.0
    kinds = (torch.float64, torch.float32, torch.bfloat16, torch.int64)
    tensors = {str(kind): whole.to(kind) for kind in kinds}
    try:
        with tempfile.TemporaryDirectory(prefix="fromage-diag-", dir=place.path) as directory:
            path = Path(directory, "written.safetensors")
            save_file(tensors, path)
            again = load_file(path)
    except Exception as error:  # safetensors has an error of its own for what the system says
        reason = f"{type(error).__name__}: {words_of(error).strip()[:200]}"
        return replace(place, written=Missing(Why.NOT_EVALUATED, reason), of=len(tensors))
    equal = sum(name in again and torch.equal(tensor, again[name]) for name, tensor in tensors.items())
    return replace(place, written=equal, of=len(tensors))
