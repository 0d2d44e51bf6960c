"""Progress with the time that is left, on standard error, for a person who watches."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fromage_cli import ranks
from fromage_cli.terminal import session, streams
from fromage_cli.terminal.colours import console_on
from fromage_cli.terminal.words import visible

if TYPE_CHECKING:
    from rich.console import RenderableType

ALMOST = 0.98
"""How full a bar is at most while work goes on."""
_BAR: "ContextVar[_Bar | None]" = ContextVar("bar", default=None)


class Advance(Protocol):
    """Called as work gets done."""

    def __call__(self, steps: float = 0.0, doing: str = "") -> None:
        """`steps` more of the total are done; `doing`: what is at work now, where that is another thing."""


@dataclass(frozen=True)
class Work:
    """What is counted where a command's own evaluations tell how far it is; steps that are told are added."""

    done: Callable[[], float]
    doing: Callable[[], str] = lambda: ""
    """In a few words, for the person who waits."""


@contextmanager
def progress(doing: str, total: float | None = None, work: Work | None = None) -> Iterator[Advance]:
    """A bar while the block runs; nothing where standard error is no terminal, or under `-q`, `--no-progress`.

    It names the command and what is at work: `doing`, until the work says another thing. Inside another one it takes
    over that bar, which goes on to say so after the block. `total`: of what is counted, as far as it is foreseen.
    """
    if not shown():
        yield lambda steps=0.0, doing="": None
        return
    outer = _BAR.get()
    if outer is not None:
        outer.follow(doing, total, work)
        yield outer.advance
        return
    bar = _Bar()
    bar.follow(doing, total, work)
    token = _BAR.set(bar)
    try:
        with bar.progress:
            yield bar.advance
    finally:
        _BAR.reset(token)


class _Bar:
    """One line that a command's stages use one after another."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        bar = self

        class Following(Progress):
            def get_renderables(self) -> "Iterable[RenderableType]":
                if self.tasks:  # it draws itself once while it is made
                    bar.look()
                return super().get_renderables()

        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        console = console_on(sys.stderr, sys.stderr, streams.width(sys.stderr))
        self._command = session.current().command
        self._doing = self._heard = ""
        self._steps = 0.0
        self._work: Work | None = None
        self.progress = Following(
            *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._task = self.progress.add_task("")

    def follow(self, doing: str, total: float | None, work: Work | None) -> None:
        """From now on the bar is for this stage."""
        self._doing, self._heard, self._steps, self._work = doing, "", 0.0, work
        self.progress.reset(self._task, total=None if total is None else total / ALMOST)
        self.look()

    def look(self) -> None:
        """The bar stands where its work is: never at its end while there is more to do, and never further back."""
        (task,) = self.progress.tasks
        done = self._steps if self._work is None else self._steps + self._work.done()
        done = max(task.completed, done)
        total = None if task.total is None else max(task.total, done / ALMOST)
        heard = self._heard if self._work is None else self._work.doing()
        if heard != self._heard:  # what was told last holds, by the work or to `advance`
            self._heard, self._doing = heard, heard or self._doing
        words = visible(f"{self._command}: {self._doing}")
        self.progress.update(self._task, completed=done, total=total, description=words)

    def advance(self, steps: float = 0.0, doing: str = "") -> None:
        """`steps` more of the total are done; the bar looks where its work is."""
        self._steps += steps
        self._doing = doing or self._doing
        self.look()


def shown() -> bool:
    """Whether a person would see a bar."""
    options = session.current().output
    return ranks.current().leads and not (options.quiet or options.no_progress) and streams.is_terminal(sys.stderr)
