"""What ends a run before it is done: signals and limits, looked at between evaluations and while the user's code runs.

The only place that catches signals. A reason to stop is remembered, so that code which swallows every exception cannot
lose it.
"""

import math
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from fromage_cli.errors import FromageError, ResourceError
from fromage_cli.process_memory import data_held

TICK = 0.1
"""Seconds from one look at the limits to the next."""
PATIENCE = 10
"""Looks from one exception that the user's code is given to the next: it may be about to clean up."""
ECHO = 2.0
"""Seconds within which a further Ctrl-C is the same one: a launcher of several processes hands on what it hears."""
MOST_SWALLOWED = 5
"""Exceptions that the user's code may swallow before the process ends under it."""
HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)


class Interruption(ResourceError):
    """Ctrl-C was pressed; what was measured until then is kept."""

    exit_code = 130
    code = "interrupted"


class Terminated(BaseException):
    """The system asked the process to end."""


@dataclass
class _Run:
    """One run of the program, and why it should end."""

    tell: Callable[[str], None]
    give_up: Callable[[BaseException], None]
    echoes: bool = False
    """Whether a launcher hands on the signals that a terminal sends to every process."""
    process: int = field(default_factory=os.getpid)
    limits: list[Callable[[], FromageError | None]] = field(default_factory=list)
    """Each tells the limit that is reached."""
    reason: BaseException | None = None
    measuring: bool = False
    """Something may have been measured that is worth keeping."""
    theirs: bool = False
    """The user's code runs: an exception may come from anywhere in it."""
    elsewhere: str | None = None
    """The working directory of the user's code while ours runs, and ours while theirs runs."""
    ending: bool = False
    """The process is about to end; a further signal ends it at once."""
    held: list[int] | None = None
    """Signals that wait until a file is written."""
    interrupted: float = -math.inf
    """When Ctrl-C was pressed."""
    looks: int = 0
    """While the user's code went on in spite of the reason."""
    undo: ExitStack = field(default_factory=ExitStack)
    """Takes back what was changed in the process."""

    def arrive(self, number: int, _: object = None) -> None:
        """A signal: a reason to stop, or a look at the limits."""
        if os.getpid() != self.process:  # a process that the user's code has started, with our handlers
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif number == signal.SIGALRM:
            self.look()
        elif self.held is not None:
            self.held.append(number)
        elif self.ending:
            os._exit(130 if number == signal.SIGINT else 143)
        elif number == signal.SIGINT and self.echoes and time.monotonic() < self.interrupted + ECHO:
            pass
        elif number == signal.SIGINT and self.measuring and self.reason is None:
            self.interrupted = time.monotonic()
            self.tell("note: stopping; what was measured so far is shown. Press Ctrl-C again to end at once.")
            self.stop(Interruption("interrupted."))
        else:
            self.ending = True
            self.stop(KeyboardInterrupt() if number == signal.SIGINT else Terminated())
            raise self.reason  # type: ignore[misc]

    def change_directory(self) -> None:
        """Go where the user's code left off, or come back from there."""
        with suppress(OSError):  # one of them is gone
            here = os.getcwd()  # noqa: PTH109 - for every evaluation, so that a path is too slow
            if self.elsewhere not in (None, here):
                os.chdir(self.elsewhere or here)
            self.elsewhere = here

    def stop(self, reason: BaseException) -> None:
        """From now on there is a reason; the user's code hears of it at once, and again where it does not heed it."""
        self.reason, self.looks = reason, 0
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
        if self.theirs:
            raise reason

    def look(self) -> None:
        """Look whether a limit is reached while the user's code runs, and whether that heeds it; ours asks itself."""
        if not self.theirs:
            return
        if self.reason is None:
            reached = next((error for error in (limit() for limit in self.limits) if error is not None), None)
            if reached is not None:
                self.stop(reached)
        else:
            self.looks += 1
            if self.looks > MOST_SWALLOWED * PATIENCE:
                self.give_up(self.reason)
            if self.looks % PATIENCE == 0:
                raise self.reason


_RUNS: list[_Run] = []


@contextmanager
def stoppable(
    tell: Callable[[str], None], give_up: Callable[[BaseException], None], *, echoes: bool = False
) -> Iterator[None]:
    """Signals are reasons to stop within; SIGTERM and SIGHUP raise Terminated, so that what is half done is undone.

    `tell` says a sentence to the person, `give_up` ends a process whose code heeds no exception; `echoes`: a launcher
    hands on a Ctrl-C that has come already.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone receives signals
        yield
        return
    run = _Run(tell, give_up, echoes)
    caught = [one for one in (signal.SIGINT, signal.SIGTERM, HANGUP) if signal.getsignal(one) != signal.SIG_IGN]
    previous = {number: signal.signal(number, run.arrive) for number in (*caught, signal.SIGALRM)}
    _RUNS.append(run)
    held_back = signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)  # what started this process may have
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        _RUNS.remove(run)
        run.undo.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _running() -> _Run | None:
    """The run that is under way, as far as this thread may end it."""
    return _RUNS[-1] if _RUNS and threading.current_thread() is threading.main_thread() else None


def watch(limit: Callable[[], FromageError | None]) -> None:
    """Look at a limit ten times a second from now on; the user's code is interrupted where it tells an error."""
    if (run := _running()) is not None:
        run.limits.append(limit)
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)


def check() -> None:
    """Raise the reason to stop, if there is one; what is measured from now on is worth keeping."""
    if (run := _running()) is not None:
        run.measuring = True
        raise_reason()


def raise_reason() -> None:
    """Raise the reason to stop, if there is one, also where the user's code has swallowed it."""
    if (run := _running()) is not None and run.reason is not None:
        raise run.reason


def interrupted() -> bool:
    """Return whether Ctrl-C is the reason to stop: other ranks may be elsewhere then, and take part in no more sums."""
    run = _running()
    return run is not None and isinstance(run.reason, Interruption)


def end() -> None:
    """Say that the process is about to end, so that one more signal ends it at once."""
    if (run := _running()) is not None:
        run.ending = True


def in_their_code(entered: bool) -> bool:
    """Say whether the user's code runs from now on; returns whether it did before. It has its own working directory."""
    if (run := _running()) is None:
        return False
    before, run.theirs = run.theirs, entered
    if before != entered:
        run.change_directory()
    return before


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let signals wait until the block is done."""
    run = _running()
    if run is None or run.held is not None:
        yield
        return
    waiting: list[int] = []
    run.held = waiting
    try:
        yield
    finally:
        run.held = None
        for number in waiting:
            run.arrive(number)


def limit_data(additional: int) -> None:
    """Let this process allocate so many bytes more until the run ends, where the system can count them (Linux)."""
    run, held = _running(), data_held()
    if run is None or held is None:
        return
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = held + additional
    if most == resource.RLIM_INFINITY or limit < most:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
        run.undo.callback(resource.setrlimit, resource.RLIMIT_DATA, (before, most))
