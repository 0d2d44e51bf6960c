"""Whether each checkpoint of a run follows from the one before: counts of updates, moments, weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.reading.slots import Part, dtypes_of
from fromage_cli.checkpoints.runs.layer_settings import RunSettings, run_settings, with_numbered_slots
from fromage_cli.checkpoints.runs.rate_history import RateHistory, rate_history
from fromage_cli.checkpoints.runs.saved_schedule import scheduler_ticks
from fromage_cli.diagnostics.state.changes import LEAST_REMEMBERED, Changes, MomentReach, Reach, WeightReach
from fromage_cli.diagnostics.state.result import Broken, Continuation
from fromage_cli.diagnostics.state.sums import ROUNDOFF
from fromage_cli.diagnostics.state.updates import keeps_moments, updates_made
from fromage_cli.missing import STEP_UNKNOWN, Missing, Why
from fromage_cli.optimizers.rule import LION, TWO_SHARES, Rule
from fromage_cli.optimizers.settings import MANY_STEPS, Given, Optimizer, beta1_range, corrects_bias
from fromage_cli.theory.moment_bounds import moment_bound, step_bound

NO_BOUND = Missing(Why.NO_FORMULA, "no bound holds for this optimizer's state")
FORGOTTEN = Missing(Why.NO_FORMULA, "too many steps lie between the files, so that less than a millionth of v is left")
NOT_CONTINUED = Missing(Why.NO_FORMULA, "the optimizer's count of updates does not go on")
SKIPPED = 0.1
"""Share of the updates that a run may leave out, as it does where gradients in float16 overflow."""
FEW = 4.0
"""Updates by which a count may differ from the steps between files all the same."""


@dataclass(frozen=True)
class Links:
    """What joins the checkpoints of a series: how far each tensor may change from one to the next."""

    checkpoints: Sequence[Checkpoint]
    names: Sequence[str]
    settings: RunSettings
    rates: RateHistory
    ticks: float | None = None
    """How often the last checkpoint's scheduler was stepped."""
    reaches: Sequence[Mapping[str, Reach]] = field(init=False)
    """Of each checkpoint from the one before, by tensor and by slot without one; empty for the first."""

    @classmethod
    def of(cls, checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> Links:
        """With the settings and rates that the checkpoints hold. Raises InputError as reading a state does."""
        settings = run_settings(checkpoints, names, Given(), Given())
        told = zip(settings.found, (checkpoint.optimizer for checkpoint in checkpoints), strict=True)
        settings = replace(settings, found=tuple(with_numbered_slots(*pair) for pair in told))
        return cls(checkpoints, names, settings, rate_history(checkpoints), scheduler_ticks(checkpoints[-1]))

    def __post_init__(self) -> None:
        reaches = [{}, *(self._reaches(index) for index in range(1, len(self.checkpoints)))]
        object.__setattr__(self, "reaches", reaches)

    def changes(self, index: int, part: Part, before: Part | None) -> Changes:
        """What changes in a part of a tensor, from the checkpoint before the index to it."""
        reach = self.reaches[index].get(part.name)
        return Changes() if before is None or reach is None else reach.changes(before.arrays, part.arrays)

    def settings_at(self, index: int) -> RunSettings:
        """The settings as they were at a checkpoint."""
        return replace(self.settings, found=self.settings.found[: index + 1])

    def last_rate(self, index: int, name: str) -> float | None:
        """The rate of a tensor's last update, where a schedule tells that it was not the saved one."""
        last, scale = self.rates.last(index), self.share(index, name)
        return None if last is None or scale is None else last * scale

    def share(self, index: int, name: str) -> float | None:
        """The most that a group's rate was over that of the first here and before; at the start where these are 0.

        None where the first group's rate is 0 all along.
        """
        rates = self.settings.rates(name)
        pairs = [(rates[place], self.rates.saved[place]) for place in (max(index - 1, 0), index)]
        if ratios := [rate / whole for rate, whole in pairs if rate is not None and whole]:
            return max(ratios)
        own = self.settings.found[index].of(name).get("initial_lr")
        return float(own) / self.rates.initial if isinstance(own, int | float) and self.rates.initial else None

    def between(self, index: int, name: str, updates: float) -> tuple[list[float], bool]:
        """Upper bounds of a tensor's rates since the checkpoint before, and whether they are told."""
        ends = self.settings.rates(name)[index - 1 : index + 1]
        return self.rates.between(index, updates, ends, self.share(index, name))

    def count(self, index: int, name: str | None = None) -> float | None:
        """The updates that a checkpoint's state counts: of one tensor, else the most of any."""
        slots = self.settings.found[index].slots
        if name is not None:
            return updates_made(slots.get(name, {}))
        return max((step for slot in slots.values() if (step := updates_made(slot)) is not None), default=None)

    def updates(self, index: int, name: str | None = None) -> float | None:
        """How many were made since the checkpoint before: as the state counts them, else by the files' steps."""
        first, last = self.count(index - 1, name), self.count(index, name)
        if first is not None and last is not None:
            return last - first
        steps = self.steps(index)
        return None if steps is None else float(steps)

    def steps(self, index: int) -> int | None:
        """The steps between the files."""
        first, last = (self.checkpoints[place].step for place in (index - 1, index))
        return None if first is None or last is None else last - first

    @property
    def counts_updates(self) -> bool:
        """Whether the steps of the files are known to count updates: two files tell it, or the scheduler does."""
        last = self.checkpoints[-1].step
        pairs = [(self.updates(index), self.steps(index)) for index in range(1, len(self.checkpoints))]
        made = self.count(len(self.checkpoints) - 1) or 0.0
        return any(updates == steps for updates, steps in pairs if updates and steps) or (
            last is not None and made < last and self.ticks == last
        )

    def restarted(self, index: int) -> bool:
        """Whether the count of updates began again after the checkpoint before."""
        first, last = self.count(index - 1), self.count(index)
        return first is not None and last is not None and last < first

    def counts_differ(self, index: int) -> bool:
        """Whether the count of updates grew otherwise than the steps of the files, in whichever unit these are."""
        first, last, steps = self.count(index - 1), self.count(index), self.steps(index)
        start, stop = (self.checkpoints[place].step for place in (index - 1, index))
        if first is None or last is None or steps is None or not start or not stop:
            return False
        same_unit = math.isclose(first / start, last / stop, rel_tol=SKIPPED)
        return not same_unit and abs(last - first - steps) > max(SKIPPED * steps, FEW)

    def _reaches(self, index: int) -> dict[str, Reach]:
        """How far each tensor may change up to a checkpoint."""
        slots = self.settings.found[index].numbered
        if self.restarted(index):
            return dict.fromkeys([*self.names, *slots], Reach(None, None))
        of_slots = {name: Reach(self._of_moments(index, name), None) for name in slots}
        tensors = {name: Reach(self._of_moments(index, name), self._of_weight(index, name)) for name in self.names}
        return tensors | of_slots

    def _of_moments(self, index: int, name: str) -> MomentReach | None:
        """How far Adam's moments may change; None where no bound is known."""
        told = [self.settings.found[place] for place in (index - 1, index)]
        slots = [one.slots.get(name, {}) for one in told]
        betas: list[Any] = [one.of(name).get("betas") for one in told]
        shape = told[1].numbered.get(name) or self.checkpoints[index].entries[name].shape
        rule, kind = self.settings.optimizer_of(name).rule, self.settings.kind_of(name)
        updates = self.updates(index, name)
        if updates is None or updates < 1.0 or rule is None or not all(map(TWO_SHARES.fits, betas)):
            return None
        (beta1, beta2), between = betas[1], beta1_range(told[1].of(name), betas[1][0])
        cycles = between[0] < between[1]
        if beta2 != betas[0][1] or (beta1 != betas[0][0] and not cycles):
            return None
        if not all(keeps_moments(slot, shape, rule, kind) for slot in slots):
            return None
        second, first = (
            max((dtypes_of(slot)[key] for slot in slots), key=lambda dtype: ROUNDOFF.get(dtype, math.inf))
            for key in ("exp_avg_sq", "exp_avg")
        )
        if not {second, first} <= set(ROUNDOFF):
            return None
        reach = MomentReach(beta1, beta2, updates, second, first, between if cycles else None)
        return reach if reach.remembered >= LEAST_REMEMBERED else None

    def _of_weight(self, index: int, name: str) -> WeightReach | None:
        """How far the weight may move; None where no bound is known."""
        optimizer, updates = self.settings.optimizer_of(name), self.updates(index, name)
        before, own = (self.settings.found[place].of(name) for place in (index - 1, index))
        slot = self.settings.found[index].slots.get(name, {})
        most = largest_entry(optimizer, self.count(index, name) or MANY_STEPS, own)
        ends, error = (
            self.settings.rates(name)[index - 1 : index + 1],
            ROUNDOFF.get(self.checkpoints[index].entries[name].dtype),
        )
        if most is None or updates is None or updates < 1.0 or None in ends or error is None:
            return None
        other_betas = before.get("betas") != own.get("betas") and "max_momentum" not in own
        if other_betas or dtypes_of(slot).get("exp_avg_sq") == "float16":  # a v that underflows leaves m over eps
            return None
        rates, _ = self.between(index, name, updates)
        most *= coarseness(slot, own, optimizer)
        decays = [one.get("weight_decay") for one in (before, own)]
        share, decay = (
            updates / len(rates),
            max([float(one) for one in decays if isinstance(one, int | float)], default=0.0),
        )
        rounds = 2.0 if error > ROUNDOFF["float32"] else 1.0  # a rounding moves by at most as much again
        sunk = decay * rounds if optimizer.rule is not None and optimizer.rule.decay == "decoupled" else 0.0
        kept = math.exp(share * math.fsum(math.log1p(-min(each * sunk, 0.5)) for each in rates))
        return WeightReach(
            distance=rounds * most * share * math.fsum(rates),
            kept=kept,
            rounding=4.0 * error if rounds > 1.0 else 4.0 * error * updates,
        )

    def continuation(self, index: int, found: Mapping[str, Changes], moving: frozenset[str]) -> Continuation:
        """What is found since the checkpoint before; `moving`: tensors whose update is not 0 at the rate then."""
        first, last = self.checkpoints[index - 1], self.checkpoints[index]
        reaches, updates = self.reaches[index], self.updates(index)
        restarted = self.restarted(index)
        of_moments = [name for name in found if reaches[name].moments is not None]
        of_weights = [name for name in found if reaches[name].weight is not None]
        slots = self.settings.found[index].slots
        none = NOT_CONTINUED if restarted or (updates is not None and updates < 1.0) else NO_BOUND
        adams = any("exp_avg_sq" in slot for slot in slots.values())
        forgotten = adams and none is NO_BOUND and not of_moments
        remembered = [reach.remembered for name in of_moments if (reach := reaches[name].moments) is not None]
        return Continuation(
            first=first.place,
            last=last.place,
            steps=STEP_UNKNOWN if (steps := self.steps(index)) is None else steps,
            updates=STEP_UNKNOWN if updates is None else updates,
            restarted=restarted,
            counts_differ=not restarted and self.counts_differ(index),
            remembered=min(remembered) if remembered else FORGOTTEN if forgotten else none,
            second_moments=_broken({name: found[name].fallen for name in of_moments}, FORGOTTEN if forgotten else none),
            first_moments=_broken({name: found[name].strayed for name in of_moments}, FORGOTTEN if forgotten else none),
            weights=_broken({name: found[name].beyond for name in of_weights}, none),
            weights_far=_broken({name: found[name].far for name in of_weights}, none),
            rates_told=all(self.between(index, name, updates or 1.0)[1] for name in of_weights),
            unchanged=tuple(name for name, one in found.items() if one.entries and not one.moved),
            frozen=tuple(
                name for name, one in found.items() if one.entries and not one.moved and one.remade and name in moving
            ),
            stale=tuple(
                name
                for name, one in found.items()
                if one.moved and one.filled and not one.remade and first.entries[name] == last.entries[name]
            ),
            emptied=tuple(name for name, one in found.items() if one.moved and one.filled_before and not one.filled),
        )


def largest_entry(optimizer: Optimizer, updates: float, told: Mapping[str, Any]) -> float | None:
    """The most that an entry of an update u can be up to so many; None where no bound is known.

    `told`: what the group's saved settings say.
    """
    rule: Rule | None = optimizer.rule
    if rule is LION:
        return 1.0
    if rule is None or rule.averages != "betas" or rule.decay == "rescaled":
        return None
    beta1, beta2 = optimizer.arguments["betas"]
    bound, (least, most) = step_bound if corrects_bias(told) else moment_bound, beta1_range(told, beta1)
    return bound(most, beta2, updates, least)


def coarseness(slot: Mapping[str, Any], told: Mapping[str, Any], optimizer: Optimizer) -> float:
    """How much larger an update can be than its bound where Adam's moments are rounded as they are stored."""
    dtypes, betas = dtypes_of(slot), optimizer.arguments.get("betas")
    if betas is None or not {"exp_avg", "exp_avg_sq"} <= set(dtypes):
        return 1.0
    first, second = (4.0 * ROUNDOFF.get(dtypes[key], 0.0) for key in ("exp_avg", "exp_avg_sq"))
    most = beta1_range(told, betas[0])[1]
    return (1.0 + first / max(1.0 - most, first)) * math.sqrt(1.0 + second / max(1.0 - betas[1], second))


def _broken(counts: Mapping[str, int], otherwise: Missing) -> Broken | Missing:
    """The tensors with entries beyond a bound; missing where no tensor has one."""
    if not counts:
        return otherwise
    beyond = {name: count for name, count in counts.items() if count}
    return Broken(sum(beyond.values()), tuple(sorted(beyond, key=lambda name: -beyond[name])))
