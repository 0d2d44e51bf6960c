"""Progress with the time that is left, on standard error, for a person who watches."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fromage_cli.terminal import session, streams
from fromage_cli.terminal.words import visible

if TYPE_CHECKING:
    from rich.console import RenderableType

ALMOST = 0.98
"""How full a bar is at most while work goes on."""
_BAR: "ContextVar[_Bar | None]" = ContextVar("bar", default=None)


class Advance(Protocol):
    """Called as work gets done."""

    def __call__(self, steps: float = 1) -> None:
        """`steps` more of the total are done."""


@dataclass(frozen=True)
class Work:
    """What is counted where a command's own evaluations tell best how far it is."""

    done: Callable[[], float]
    doing: Callable[[], str] = lambda: ""
    """In a few words, for the person who waits."""


@contextmanager
def progress(label: str, total: float | None = None, work: Work | None = None) -> Iterator[Advance]:
    """A bar while the block runs; nothing where standard error is no terminal, or under `-q`, `--no-progress`.

    Inside another one it takes over that bar. With `work` the bar follows it, whatever is told to advance.
    """
    if not shown():
        yield lambda steps=1: None
        return
    outer = _BAR.get()
    if outer is not None:
        outer.follow(label, total, work)
        yield outer.advance
        return
    bar = _Bar()
    bar.follow(label, total, work)
    token = _BAR.set(bar)
    try:
        with bar.progress:
            yield bar.advance
    finally:
        _BAR.reset(token)


class _Bar:
    """One line that a command's stages use one after another."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        bar = self

        class Following(Progress):
            def get_renderables(self) -> "Iterable[RenderableType]":
                bar.look()
                return super().get_renderables()

        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        console = Console(stderr=True, width=streams.width(sys.stderr))
        self._label = ""
        self._work: Work | None = None
        self.progress = Following(
            *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._task = self.progress.add_task("")

    def follow(self, label: str, total: float | None, work: Work | None) -> None:
        """From now on the bar is for this stage."""
        self._label, self._work = label, work
        self.progress.reset(self._task, total=total, description=visible(label))

    def look(self) -> None:
        """Where its work tells how far it is, the bar stands there; never at its end while there is more to do."""
        if self._work is None:
            return
        (task,) = self.progress.tasks
        done, doing = self._work.done(), self._work.doing()
        total = max(task.total, done / ALMOST) if task.total is not None else None
        words = visible(f"{self._label}: {doing}" if doing else self._label)
        self.progress.update(self._task, completed=done, total=total, description=words)

    def advance(self, steps: float = 1) -> None:
        """`steps` more of the total are done; where its work tells how far it is, the bar looks there."""
        if self._work is None:
            self.progress.advance(self._task, steps)
        else:
            self.look()


def shown() -> bool:
    """Whether a person would see a bar."""
    options = session.current().output
    return not (options.quiet or options.no_progress) and streams.is_terminal(sys.stderr)
