"""One checkpoint diagnosed by `check` in a process of its own, which gives its memory back and may crash."""

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fromage_cli.errors import FromageError, InputError, ResourceError, UsageError
from fromage_cli.terminal.envelope import SCHEMA, Circumstances, error_envelope
from fromage_cli.terminal.words import in_seconds, visible
from fromage_cli.watching import child

GRACE = 60.0
"""Seconds after its time limit until a diagnosis is killed: it ends by itself, with what it has measured."""
_LONGEST = 300
"""Characters of what a crash printed last."""


@dataclass(frozen=True)
class Diagnosis:
    """What `check` said, and how it ended."""

    exit_code: int
    envelope: Mapping[str, object]


@dataclass(frozen=True)
class Diagnostician:
    """`check` with the flags that it is always given."""

    flags: Sequence[str]
    time_limit: float
    """Seconds for each checkpoint."""
    hide_gpus: bool

    def diagnose(self, earlier: Sequence[Path], path: Path) -> Diagnosis:
        """Diagnose a checkpoint after earlier ones of its run; by itself where they do not go together."""
        found = self._check([*earlier, path])
        if earlier and found.exit_code in (UsageError.exit_code, InputError.exit_code):
            return self._check([path])
        return found

    def _check(self, paths: Sequence[Path]) -> Diagnosis:
        environment = dict(os.environ)
        if self.hide_gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        flags = [*self.flags, "--time-limit", f"{self.time_limit}s", "--json", "-q"]
        words = [sys.executable, "-m", "fromage_cli", "check", *flags, "--", *(str(path.absolute()) for path in paths)]
        ended = child.run(words, environment, self.time_limit + GRACE)
        try:
            envelope = json.loads(ended.out)
        except ValueError:
            envelope = None
        answered = isinstance(envelope, dict) and envelope.get("schema") == SCHEMA
        if answered and ended.code is not None and ended.code >= 0:
            return Diagnosis(ended.code, envelope)
        error = _crash(ended, self.time_limit)
        return Diagnosis(error.exit_code, error_envelope(error, Circumstances("check")))


def _crash(ended: child.Ended, time_limit: float) -> FromageError:
    """The error that stands for a diagnosis which ended without an answer."""
    if ended.code is None:
        limit = in_seconds(time_limit)
        return ResourceError(f"It did not end by its time limit of {limit}, and was killed.", "Raise --time-limit.")
    if ended.code == -signal.SIGKILL:
        return ResourceError("The system killed it, most often for lack of memory.", "Give --max-memory, or less data.")
    lines = ended.err.strip().splitlines()
    last = f": {visible(lines[-1][:_LONGEST])}" if lines else ""
    how = f"by signal {-ended.code}" if ended.code < 0 else f"with exit code {ended.code}"
    return FromageError(f"It ended {how}{last}.", "Run check on this checkpoint to see more.")
