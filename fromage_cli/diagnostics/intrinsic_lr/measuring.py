"""What every layer of a run is measured from: its checkpoints, its settings, and what they say of its past."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.runs.saved_schedule import updates_made
from fromage_cli.diagnostics.intrinsic_lr.forecast import motion_of
from fromage_cli.diagnostics.intrinsic_lr.prediction import SCHEDULE
from fromage_cli.diagnostics.intrinsic_lr.result import NO_TREND, Evidence, Inactive, LayerEvidence
from fromage_cli.diagnostics.intrinsic_lr.settings import Training
from fromage_cli.diagnostics.intrinsic_lr.subject import Subject
from fromage_cli.diagnostics.intrinsic_lr.trend import Past, Track, find_past
from fromage_cli.missing import STEP_UNKNOWN, Missing, Why

NO_END = Missing(Why.NOT_ASKED, "the steps of the whole run are not known: --total-steps 10000 tells them")
RUN_ENDED = Missing(Why.NOT_DEFINED, "the run ends with the last checkpoint")
UNKNOWN_SCHEDULE = Missing(
    Why.SCHEDULE, "the learning rate changes, and how it goes on is not known: --schedule cosine --total-steps 10000"
)


@dataclass(frozen=True)
class Read:
    """What the checkpoints of a run hold of one layer."""

    norms: tuple[float, ...]
    """At every checkpoint."""
    observed: tuple[float | Missing, ...]
    """Its angles between consecutive ones."""
    inactive: Inactive
    untrained: Missing | None = None
    """Why it is not trained; None where it is."""

    @property
    def active(self) -> tuple[float, ...]:
        """The norms of the entries that receive gradients."""
        return tuple(map(self.inactive.active, self.norms))


@dataclass(frozen=True)
class Measuring:
    """What every layer of a run is measured from."""

    checkpoints: Sequence[Checkpoint]
    training: Training
    evidence: Evidence
    past: Past | Missing = NO_TREND
    """How large SGD's gradients became on the way so far."""

    @property
    def gaps(self) -> list[int | None]:
        """Steps between consecutive checkpoints."""
        steps = pairwise(checkpoint.step for checkpoint in self.checkpoints)
        return [None if start is None or stop is None else stop - start for start, stop in steps]

    @property
    def steps(self) -> list[int | None]:
        """Updates made before each checkpoint."""
        return [updates_made(checkpoint) for checkpoint in self.checkpoints]

    @property
    def varying(self) -> Missing | None:
        """Why the rate is not constant from the last checkpoint on; None where it is."""
        schedule, now = self.training.schedule, self.steps[-1]
        if schedule is None:
            return UNKNOWN_SCHEDULE
        return None if schedule.constant_from(math.inf if now is None else now) else SCHEDULE

    @property
    def run_end(self) -> float | Missing:
        """The steps of the whole run, where it goes on from a known step."""
        schedule, now = self.training.schedule, self.steps[-1]
        if schedule is None:
            return UNKNOWN_SCHEDULE
        if now is None or schedule.end is None:
            return STEP_UNKNOWN if now is None else NO_END
        return schedule.end if round(schedule.end) > now else RUN_ENDED

    def with_past(self, layers: Mapping[str, Read]) -> "Measuring":
        """The same with the trend of SGD's gradients, which is that of all these layers."""
        tracks = [track for name, read in layers.items() if (track := self.track(name, read)) is not None]
        schedule, steps = self.training.schedule, [step for step in self.steps if step is not None]
        if not tracks or schedule is None or isinstance(self.run_end, Missing):
            return self
        past = find_past(tracks, schedule, steps) if len(steps) == len(self.steps) else STEP_UNKNOWN
        return replace(self, past=past)

    def track(self, name: str, read: Read) -> Track | None:
        """The norms of a layer that moves by the size of SGD's gradients; None of others."""
        subject = self.subject(name, read)
        peak = self.training.peaks.get(name, subject.rate)
        motion, rule = motion_of(subject, peak), subject.training.rule
        if rule is None or rule.step_size != "gradient" or isinstance(motion, Missing) or peak is None:
            return None
        return Track(motion, peak, read.active)

    def subject(self, name: str, read: Read) -> Subject:
        """A layer at the last checkpoint."""
        evidence, training = self.evidence.layers.get(name, LayerEvidence()), self.training.of_layer(name)
        return Subject(
            training=training,
            rate=training.rates[name][-1],
            decay=training.decays[name],
            norm=read.active[-1],
            elements=self.checkpoints[-1].entries[name].elements - read.inactive.entries,
            sizes=evidence.sizes,
            squares=evidence.squares,
            squared_gradient=evidence.squared_gradient,
            invariant=evidence.verdict != "none",
            untrained=read.untrained,
        )
