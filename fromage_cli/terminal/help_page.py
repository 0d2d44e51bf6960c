"""The help of a command: the options that many need are explained, the others named; `--help -v` explains all."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import typer

RARE = frozenset(
    {
        *("key", "ema", "optimizer_state", "optimizer_key"),
        *("mode", "micro_batch", "include", "exclude", "tensors"),
        *(
            "dtype",
            "seed",
            "autocast",
            "recompute",
            "compile",
            "max_memory",
            "nproc",
            "shard",
            "color",
            "no_progress",
            "force",
            "debug",
        ),
        *(
            "nesterov",
            "decoupled",
            "dropout_by_module",
            "damping",
            "probe_budget",
            "warm",
            "sharpness",
            "reload",
            "simulate",
            "tolerance",
            "max_iterations",
        ),
    }
)
"""Parameters that few need, by name: their options are explained only in the long help."""
PANELS = ("Arguments", "Options", "Model", "Batch", "Optimizer", "Run", "Output", "Tensors", "Checkpoint")
"""The commonest first."""
WIDEST = 24
"""Characters of an option that its explanation still stands beside, not below."""


def usage(command: Any) -> str:
    """The arguments of a command as they are typed: `[OPTIONS] CKPT…`."""
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    return " ".join(["[OPTIONS]", *(one.metavar if one.required else f"[{one.metavar}]" for one in arguments)])


def option_panels(command: Any, ctx: typer.Context, width: int, every: bool) -> str:
    """The arguments and options in their panels; the rare ones are explained only where `every` one is asked for."""
    panels: dict[str, list[tuple[str, str]]] = {title: [] for title in PANELS}
    named: list[str] = []
    for title, parameter, (name, words) in option_records(command, ctx):
        if parameter in RARE and not every:
            named.append(name)
        else:
            panels.setdefault(title, []).append((name, words))
    texts = [f"\n{title}:\n{''.join(_columns(rows, width))}" for title, rows in panels.items() if rows]
    if named:
        texts.append(f"\nMore options (--help -v explains them):\n{_listed(named, width)}")
    return "".join(texts)


def option_records(command: Any, ctx: typer.Context) -> Iterator[tuple[str, str, tuple[str, str]]]:
    """Every argument and option: the title of its group, its parameter, how it is typed and what it does."""
    for parameter in command.get_params(ctx):
        argument = parameter.param_type_name == "argument"
        title = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or "Options"
        yield title, str(parameter.name), _record(parameter, ctx)


def _record(parameter: Any, ctx: typer.Context) -> tuple[str, str]:
    """A parameter as it is typed, and what it does."""
    if parameter.param_type_name == "argument":
        return parameter.metavar, parameter.help
    if parameter.name == "help":
        return ", ".join(sorted(parameter.opts, key=len)), "Show this help; with -v every option is explained."
    name, words = parameter.get_help_record(ctx)
    words = re.sub(r"  \[x>=\d+\]|; x>=\d+", "", words)  # a smaller number is refused with these words
    return name.replace(" / ", "/"), words.replace("  [", " [")


def _columns(rows: Sequence[tuple[str, str]], width: int) -> Iterable[str]:
    """Lines of names and words side by side; no word is split, not at its hyphens either."""
    column = max((len(name) for name, _ in rows if len(name) <= WIDEST), default=WIDEST) + 4
    for name, words in rows:
        lines = textwrap.wrap(words, width - column, break_on_hyphens=False, break_long_words=False)
        beside = lines.pop(0) if len(name) <= WIDEST and lines else ""
        yield f"  {name:<{column - 2}}{beside}".rstrip() + "\n"
        yield from (f"{'':<{column}}{line}\n" for line in lines)


def _listed(names: Sequence[str], width: int) -> str:
    """Names one after another; none is split from its value."""
    unbroken = ", ".join(name.replace(" ", "\0") for name in names)
    wrapped = textwrap.fill(
        unbroken, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )
    return wrapped.replace("\0", " ") + "\n"
