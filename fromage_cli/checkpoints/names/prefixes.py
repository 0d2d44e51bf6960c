"""Wrapper prefixes: what DistributedDataParallel, torch.compile, FSDP and DeepSpeed put into names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")


@dataclass(frozen=True)
class Stripped:
    """Names without their wrapper prefixes."""

    names: Mapping[str, str]  # stripped name -> stored name, in stored order
    prefixes: tuple[str, ...]  # what was removed: "module.", …
    notes: tuple[str, ...]


def strip_prefixes(stored: Iterable[str]) -> Stripped:
    """Strip each wrapper anywhere in the names, unless two names would then be one."""
    names = {name: name for name in stored}
    prefixes: list[str] = []
    notes: list[str] = []
    for wrapper in WRAPPERS:
        if not any(wrapper in name.split(".")[:-1] for name in names):
            continue
        shorter: dict[str, str] = {}
        clash = None
        for name, original in names.items():
            *parents, last = name.split(".")
            short = ".".join([part for part in parents if part != wrapper] + [last])
            clash = clash or ((shorter[short], original) if short in shorter else None)
            shorter[short] = original
        if clash:
            notes.append(
                f"The prefix '{wrapper}.' was kept: without it {clash[0]!r} and {clash[1]!r} would be one name."
            )
        else:
            names, prefixes = shorter, [*prefixes, f"{wrapper}."]
    return Stripped(names, tuple(prefixes), tuple(notes))
