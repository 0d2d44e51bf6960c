"""Progress with the time that is left, on standard error, for a person who watches."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from fromage_cli.terminal import session, streams


class Advance(Protocol):
    """Called as work gets done."""

    def __call__(self, steps: float = 1) -> None:
        """`steps` more of the total are done."""


@contextmanager
def progress(label: str, total: float | None = None) -> Iterator[Advance]:
    """A bar while the block runs; nothing where standard error is no terminal, or under `-q`, `--no-progress`."""
    if not shown():
        yield lambda steps=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from fromage_cli.terminal.words import visible

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, width=streams.width(sys.stderr))
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task(visible(label), total=total)

        def advance(steps: float = 1) -> None:
            bar.advance(task, steps)

        yield advance


def shown() -> bool:
    """Whether a person would see a bar."""
    options = session.current().output
    return not (options.quiet or options.no_progress) and streams.is_terminal(sys.stderr)
