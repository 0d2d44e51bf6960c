"""What is known about the running command: its flags in effect, where they came from, and its streams."""

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fromage_cli.terminal.envelope import Circumstances
from fromage_cli.terminal.options import OutputOptions
from fromage_cli.terminal.project import ProjectConfiguration

if TYPE_CHECKING:
    from fromage_cli.terminal.output import Destination

COMMAND_LINE = "command line"
"""The origin of a value that was typed."""


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it is gone, and still can be worked in
        return Path()


@dataclass(frozen=True)
class Session:
    """One run of one command."""

    command: str | None = None
    output: OutputOptions = field(default_factory=OutputOptions)
    destination: "Destination | None" = None
    """None until it has been decided."""
    project: ProjectConfiguration = field(default_factory=ProjectConfiguration)
    settings: Mapping[str, object] = field(default_factory=dict)
    """Every flag in effect, in snake case."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each comes from: `command line`, `environment`, `project` or `default`."""
    checkpoints: Sequence[str] = ()
    """What is named as checkpoints, by the command line or the configuration."""
    directory: Path = field(default_factory=_working_directory)
    """The working directory as it was when the command began, which names of outputs are relative to."""
    started: float = field(default_factory=time.perf_counter)
    delivered: bool = False
    """The answer has been written, a partial one with its error."""

    @property
    def circumstances(self) -> Circumstances:
        """What the envelope says of this run, as of now."""
        return Circumstances(self.command, self.settings, time.perf_counter() - self.started, self.checkpoints)


_CURRENT: ContextVar[Session | None] = ContextVar("session", default=None)


def current() -> Session:
    """The running command's session; a bare one where no command runs."""
    return _CURRENT.get() or Session()


def typed(parameter: str) -> bool:
    """Whether a parameter's value stands on the command line, not in a configuration that other commands share.

    Where no command runs, it counts as typed.
    """
    return current().origins.get(parameter, COMMAND_LINE) == COMMAND_LINE


PROBLEM = ("model", "model_arg", "batch", "seq_len", "sequences", "loss", "key", "nproc", "shard")
"""Options that say which network and which data, and how many processes hold them, for every command with a batch."""


TRAINING = (
    *("optimizer", "lr", "momentum", "nesterov", "betas", "weight_decay", "decoupled", "steps_per_epoch"),
    *("schedule", "warmup_steps", "total_steps", "train_batch_size", "optimizer_state", "optimizer_key", "drop"),
)
"""Options that say how the network was trained, for the commands on a run."""


def typed_problem(others: Sequence[str] = ()) -> str:
    """The options of the network and the data as they stand on the command line, to be typed again; each with a space.

    `others`: further options that are repeated likewise. What a configuration holds need not be typed.
    """
    words = ""
    for name in (*PROBLEM, *others):
        value = current().settings.get(name)
        if value is None or current().origins.get(name) != COMMAND_LINE:
            continue
        flag = f" --{name.replace('_', '-')}"
        for one in value if isinstance(value, list | tuple) else [value]:
            words += flag if one is True else f"{flag} {shlex.quote(str(one).removesuffix('.0'))}"
    return words


def begin(session: Session) -> None:
    """Make the session the current one, until the scope ends."""
    _CURRENT.set(session)


def deliver() -> None:
    """From now on the answer counts as written."""
    _CURRENT.set(replace(current(), delivered=True))


@contextmanager
def scope() -> Iterator[None]:
    """One run of the program: whatever session begins inside is forgotten afterwards."""
    token = _CURRENT.set(Session())
    try:
        yield
    finally:
        _CURRENT.reset(token)
