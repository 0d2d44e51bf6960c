"""The loop: look, wait until a checkpoint is whole and at rest, diagnose it, write it down, tell."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from fromage_cli.checkpoints.storage.files import quoted
from fromage_cli.errors import FromageError, InputError, words_of
from fromage_cli.watching.arrivals import Arrival, arrivals
from fromage_cli.watching.diagnosis import Diagnosis
from fromage_cli.watching.fingerprint import content_of
from fromage_cli.watching.log import WatchLog

LATEST = 3
"""Earlier checkpoints that go with a new one, beside the first: growth needs some, and more take time to read."""

Record = Mapping[str, Any]


class Diagnose(Protocol):
    """What judges a checkpoint after earlier ones of its run."""

    def __call__(self, earlier: Sequence[Path], path: Path, /) -> Diagnosis:
        """Return what it found."""


@dataclass(frozen=True)
class Ending:
    """When to end; never, where nothing is given."""

    once: bool = False
    """After what is there."""
    step: int | None = None
    """After a checkpoint of this step or a later one."""
    idle: float | None = None
    """After so many seconds in which nothing changed."""


@dataclass(frozen=True)
class WatchedCheckpoint:
    """What a line of the log says beside the answer of `check`."""

    watched_at: str
    """When it was diagnosed: date and time, UTC."""
    path: str
    """Where the checkpoint is, through no link to the run's directory: `latest` may be another run tomorrow."""
    step: int | None
    """The training step, by the file or else by its name; None where neither tells it."""
    content: str
    """SHA-256 of what its files hold; empty where they were gone."""
    state: str
    """A name for the state of its files: the same files unchanged have the same one."""
    exit_code: int
    """With which `check` ended."""


@dataclass
class _Seen:
    """What was found out about a checkpoint in its present state."""

    state: str
    fault: str | None = None
    """Why it is incomplete, empty where it is whole; None before it was looked into."""


@dataclass
class Follower:
    """One directory that is looked at again and again."""

    directory: Path
    log: WatchLog
    diagnose: Diagnose
    tell: Callable[[Record], None]
    """Called once for each record that is in the log."""
    say: Callable[[str], None]
    """A sentence for the person."""
    _seen: dict[Path, _Seen] = field(default_factory=dict)
    _told: set[Path] = field(default_factory=set)
    """What is incomplete or changed while it was read, and the person knows."""
    _unwritten: Record | None = None
    """A diagnosis that the disk could not take yet."""
    _failures: int = 0
    """Looks in a row at which the directory could not be read."""
    _troubles: dict[str, str] = field(default_factory=dict)
    """What does not work, and the person knows: by name, with the reason."""

    def follow(
        self,
        ending: Ending,
        interval: float,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> str:
        """Look every `interval` seconds until it ends; returns why. Clocks that are set anew play no part.

        Raises InputError where it ends with a diagnosis that could not be written down.
        """
        last_change, looks = clock(), 0
        while True:
            if self.look():
                last_change = clock()
            looks += 1
            why = ""
            if ending.step is not None and self.log.highest_step >= ending.step:
                why = f"step {ending.step} is reached"
            elif ending.once and looks > 1:  # at the second look it shows what is at rest
                why = "all that was there is diagnosed"
            elif ending.idle is not None and clock() - last_change >= ending.idle:
                why = f"nothing has changed for {ending.idle:g} s"
            if why and self._unwritten is not None:
                reason = self._troubles.get("the log", "")
                raise InputError(f"The last diagnosis could not be written: {reason}.", hint="Make space there.")
            if why:
                return why
            pause(interval)

    def look(self) -> bool:
        """Look once, and diagnose what is new, whole and at rest; returns whether anything changed."""
        if not self._written():
            return False
        try:
            found = arrivals(self.directory)
        except (FromageError, OSError) as error:
            self._failures += 1
            if self._failures > 1:  # one that is gone at the next look was a file on its way
                self._fails("the directory", words_of(error))
            return False
        self._failures = 0
        self._works("the directory")
        before, self._seen = self._seen, {}
        for one in found:
            seen = before.get(one.path)
            self._seen[one.path] = seen if seen and seen.state == one.state else _Seen(one.state)
        at_rest = [one for one in found if self._seen[one.path] is before.get(one.path)]
        whole = [one for one in at_rest if self._is_whole(one)]
        self._told &= self._seen.keys()
        new = [one for one in whole if one.state not in self.log.states]
        changed = bool(new) or len(at_rest) < len(found) or before.keys() != self._seen.keys()
        for one in new:
            if self._written():
                self._take(one, earlier_than(one, whole))
        return changed

    def _is_whole(self, one: Arrival) -> bool:
        """Whether a checkpoint is complete; one that is not is told once, and looked into again when it changes."""
        seen = self._seen[one.path]
        if seen.fault is None:
            try:
                seen.fault = "" if one.state in self.log.states else one.why_incomplete()
            except OSError:  # of a network file system: the next look may succeed
                return False
        if seen.fault:
            self._tell_once(one, f"note: incomplete: {seen.fault}")
        return not seen.fault

    def _take(self, one: Arrival, earlier: Sequence[Arrival]) -> None:
        """Diagnose a checkpoint and write it down, unless its content was judged before or changes meanwhile."""
        try:
            content = content_of(one.path, one.files)
        except InputError:  # it is gone, or changes
            content = ""
        if not one.is_unchanged():
            self._changed(one)
        elif content in self.log.contents:
            self.log.states.add(one.state)
        else:
            try:
                diagnosis = self.diagnose([each.path for each in earlier], one.path)
            except OSError as error:  # no memory for a process, say
                self._fails("check", words_of(error))
                return
            self._works("check")
            if all(each.is_unchanged() for each in (*earlier, one)):
                self._told.discard(one.path)
                self._unwritten = record_of(one, self.directory, content, diagnosis)
                self._written()
            else:
                self._changed(one)

    def _changed(self, one: Arrival) -> None:
        """Forget what was found out about a checkpoint, so that it has to be at rest again first."""
        self._seen.pop(one.path, None)
        if one.path.exists():
            self._tell_once(one, f"note: {quoted(one.path)} changed while it was read, and is read again later")

    def _tell_once(self, one: Arrival, sentence: str) -> None:
        """Say something about a checkpoint, unless something was said since it was last diagnosed or not there."""
        if one.path not in self._told:
            self._told.add(one.path)
            self.say(sentence)

    def _written(self) -> bool:
        """Whether every diagnosis is in the log; one that was not is written now, and told."""
        if self._unwritten is None:
            return True
        failure = self.log.append(self._unwritten)
        if failure is not None:
            self._fails("the log", f"{quoted(self.log.path)} cannot be written: {failure.strerror}")
            return False
        record, self._unwritten = self._unwritten, None
        self._works("the log")
        self.tell(record)
        return True

    def _fails(self, what: str, reason: str) -> None:
        """Tell what does not work, once until it does."""
        if what not in self._troubles:
            self._troubles[what] = reason
            self.say(f"note: waiting for {what}: {reason}")

    def _works(self, what: str) -> None:
        """Tell that something works again."""
        if self._troubles.pop(what, None) is not None:
            self.say(f"note: {what} works again")


def earlier_than(one: Arrival, whole: Sequence[Arrival]) -> list[Arrival]:
    """The first checkpoint of a run and the latest ones before this one; none where its name tells no step."""
    if one.number is None:
        return []
    before = [each for each in whole if each.number is not None and each.number < one.number]
    return before if len(before) <= LATEST else [before[0], *before[-LATEST:]]


def record_of(one: Arrival, directory: Path, content: str, diagnosis: Diagnosis) -> Record:
    """The line of the log: what was watched, and what `check` printed."""
    checkpoints: Any = diagnosis.envelope.get("checkpoints") or [{}]
    told = checkpoints[-1].get("step")
    watched = WatchedCheckpoint(
        watched_at=datetime.now(UTC).isoformat(timespec="seconds"),
        path=str(directory.resolve() / one.path.relative_to(directory)),
        step=one.number if told is None and one.counts == "step" else told,
        content=content,
        state=one.state,
        exit_code=diagnosis.exit_code,
    )
    return {**asdict(watched), **diagnosis.envelope}
