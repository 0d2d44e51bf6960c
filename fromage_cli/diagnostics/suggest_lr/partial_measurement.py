"""One search for safe rates on its way: estimate by estimate, each with what it costs, until a limit is reached."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from fromage_cli.counting import counted
from fromage_cli.diagnostics.suggest_lr.held_out_rows import critical_on_others
from fromage_cli.diagnostics.suggest_lr.result import Estimate
from fromage_cli.errors import MismatchError, NumericalError, ResourceError
from fromage_cli.missing import LIMIT_REACHED, NO_OTHER_DRAWS, OPTIMIZER_UNKNOWN, Basis, Missing, Why, failed, known
from fromage_cli.optimizers.settings import Given
from fromage_cli.probes.cost import gradients
from fromage_cli.probes.curvature.threshold import stable_rate
from fromage_cli.probes.lines.critical import critical_rate
from fromage_cli.probes.lines.crossing import Crossing, find_crossing, find_sum_crossing, judged_again
from fromage_cli.probes.lines.draws import critical_over_draws
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.next_update import CHUNKS, NextUpdate, next_update
from fromage_cli.probes.optimizer_step.partial_measurement import PartialMeasurement
from fromage_cli.probes.structure.depth import measure_depth
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.conversions import largest_rate, relative_step
from fromage_cli.theory.random_draws import OtherDraws
from fromage_cli.theory.relative_trust import lemma2_rate
from fromage_cli.theory.schedules import Schedule

T = TypeVar("T")
NO_DRAW_RISES = Missing(Why.NO_RISE, "under no other draw a step was seen to raise the loss")
LEMMA2 = {
    "lemma2-count": "every weight tensor counted as a layer",
    "lemma2-path": "the same on the longest path",
    "lemma2-effective": "the same with residual branches weighed",
}
"""What each of the depths counts."""
NO_RELATIVE_SIZE = Missing(
    Why.NOT_DEFINED, "no layer that moves has a relative size: their weights are zero, or far smaller than their step"
)


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    batch_size: int | None = None
    """Rows of a training batch; None takes those of the first batch."""
    chunks: int = CHUNKS
    """Into about how many the rows are cut."""
    sharpness: bool = False
    probe: str = "none"
    """`auto`, `init`, `checkpoint` or `none`."""
    verify: int = 0
    """Real steps to check the answer with."""
    fresh: Callable[[int], Problem | None] = lambda _: None
    """Makes the problem again on a network as its factory makes it, with weights of a seed."""
    budget: int | None = None
    """Minibatch gradients for short runs; None takes what fits into ten minutes."""
    schedule: Schedule = field(default_factory=Schedule)
    """Of the user's run."""
    new: bool = True
    """Whether the weights are as the network draws them; else a checkpoint holds them."""
    made: int = 0
    """Updates before the checkpoint."""
    trained: bool | None = False
    """Whether the weights are past their initialisation; None where the checkpoint does not say."""
    peak: float | None = None
    """The highest rate that the run has had, as far as its checkpoints tell."""
    rate: float | None = None
    """The rate that the user named."""
    given: Given = field(default_factory=Given)
    """What the user said of the optimizer …"""
    declared: Given = field(default_factory=Given)
    """… and what stands beside the checkpoint."""


@dataclass
class RateSearch(PartialMeasurement):
    """One search on its way, for one optimizer."""

    tensors: Sequence[TrainableTensor]
    update: NextUpdate
    shared: float
    """What base gradient and noise cost, in gradients; every estimate along the step rests on them."""
    known: bool = True
    """Whether this is the optimizer that was asked about; else only relative steps are told."""
    estimates: list[Estimate] = field(default_factory=list)
    draws: OtherDraws | Missing = NO_OTHER_DRAWS
    """Of the critical rate."""

    @property
    def parameters(self) -> int:
        """Of the network, trainable ones."""
        return sum(tensor.parameter.numel() for tensor in self.problem.trainable)

    def rate(self, eta: float | Missing) -> float | Missing:
        """The learning rate at which no layer moves by more than eta, of those that have a relative size."""
        if isinstance(eta, Missing):
            return eta
        rate = largest_rate(eta, self.update.relative_steps)[0]
        return OPTIMIZER_UNKNOWN if not self.known else NO_RELATIVE_SIZE if rate is None else rate

    def eta(self, rate: float | Missing) -> float | Missing:
        """The largest relative step of a learning rate."""
        if isinstance(rate, Missing):
            return rate
        eta = relative_step(rate, self.update.relative_steps)
        return NO_RELATIVE_SIZE if eta is None else eta

    def place(self, along: float) -> tuple[float | Missing, float | Missing]:
        """The relative step and the learning rate of a place on the line; without a relative step it has the rate."""
        if self.update.relative_steps:
            return along, self.rate(along)
        return NO_RELATIVE_SIZE, along * self.update.line.learning_rate if self.known else OPTIMIZER_UNKNOWN

    def lemma2(self) -> None:
        """Three readings of the depth, all with the smallest cosine of a layer."""
        measured = self._with_cost(lambda: measure_depth(self.problem), *LEMMA2)
        if measured is None:
            return
        found, cost = measured
        layers = [tensor.name for tensor in self.tensors if tensor.is_layer and tensor.name in self.update.cosines]
        least = min(layers, key=lambda name: self.update.cosines[name].value, default=None)
        for name, depth in zip(LEMMA2, (found.count, found.path, found.effective), strict=True):
            eta: float | Missing
            if depth is None:
                words = Basis("not told", "the graph hides the depth")
                eta = Missing(Why.GRAPH_UNREADABLE, words)
            elif least is None:
                words = Basis("no layer", "Lemma 2 speaks of layers of two or more dimensions, and there are none")
                eta = Missing(Why.UNCERTIFIABLE, words)
            elif self.update.cosines[least].value <= 0.0:
                words = Basis("no positive cosine", f"Lemma 2 needs one in every layer, {least} has none")
                eta = Missing(Why.UNCERTIFIABLE, words)
            else:
                words = Basis(f"Lemma 2, depth {depth:.3g}", LEMMA2[name])
                eta = lemma2_rate(self.update.cosines[least].value, depth)
            self.estimates.append(Estimate(name, eta, self.rate(eta), words, self.shared + cost))

    def measured(self) -> Crossing | None:
        """How far the step is certain to descend."""
        line, levels = self.update.line, self.update.levels
        return self._certain(
            "measured",
            lambda: find_crossing(self.problem, line.direction, levels, self.advance, highest=line.highest),
            self.shared,
        )

    def measured_together(self, found: Crossing) -> tuple[Crossing, Crossing | None]:
        """How far it is certain by the sum over all tensors, where layers by themselves are certain less far.

        Gives the search by layers too, which the points of this one may have denied.
        """
        if found.criterion == "sum" or found.relation not in ("crossing", "below-grid"):
            return found, None
        place = next(place for place, each in enumerate(self.estimates) if each.name == "measured")
        before, highest = self.estimates[place].gradient_evaluations, self.update.line.highest
        whole = self._certain(
            "measured-sum", lambda: find_sum_crossing(self.problem, found, self.advance, highest=highest), before
        )
        if whole is None:
            return found, None
        layers = judged_again(found, whole)
        self.estimates[place] = self._told("measured", layers, before)
        return layers, whole

    def certain(self) -> tuple[Crossing | None, Crossing | None]:
        """How far the step is certain to descend, by layers and by the sum."""
        found = self.measured()
        return (None, None) if found is None else self.measured_together(found)

    def start(self, crossings: Sequence[Crossing | None]) -> float:
        """Where the search for a critical rate begins: where descent stops being certain."""
        ends = [found.eta for found in reversed(crossings) if found is not None and found.eta is not None]
        at_the_end = known(self.place(ends[0])[1]) if ends else None
        return at_the_end or self.update.line.learning_rate * 1e-2

    def critical(self, start: float) -> float | Missing:
        """The smallest rate whose step raises the loss of the rows of its own gradient."""

        def measure() -> tuple[float | Missing, Basis]:
            moved = self.update.moved(self.tensors)
            code, words = Why.NO_RISE, Basis("no rise seen", "at none of the rates tried")
            try:
                rate = critical_rate(self.problem, moved, start, self.optimizer.contraction)
            except NumericalError as rounded:
                rate, code, words = None, Why.HIDDEN_BY_ROUNDING, Basis("not resolved", rounded.message)
            if rate is not None:
                self._look_at_other_draws(moved, rate)
                return rate, Basis("by trying steps", "the loss of the batch that gave the step")
            if self.update.line.descent == 0.0:
                code, words = Why.ZERO_OR_NOT_FINITE, Basis("no slope", "the gradient along the step is zero")
            elif self.update.line.descent < 0.0:
                code, words = Why.UPHILL, Basis("the step goes uphill", "on the batch")
            return Missing(code, words), words

        if self.problem.draws_noise:
            self.draws = Missing(Why.RESTS_ON_MISSING, "there is no critical rate of the network's own draw")
        return self._rate("critical", measure)

    def _look_at_other_draws(self, moved: Mapping[str, Tensor], rate: float) -> None:
        """Between which rates the same step raises the loss under other random draws, where there are any."""
        if not self.problem.draws_noise:
            return
        self.draws = LIMIT_REACHED
        with suppress(ResourceError):  # the rate itself is known
            others = critical_over_draws(self.problem, moved, rate, self.optimizer.contraction)
            found = [other for other in others if other is not None]
            self.draws = OtherDraws(len(found), min(found), max(found)) if found else NO_DRAW_RISES

    def critical_elsewhere(self, start: float) -> float | Missing:
        """The same on rows that the step knows nothing of."""
        return self._rate("critical-independent", lambda: critical_on_others(self.update, self.tensors, start))

    def sharpness(self) -> None:
        """The optimizer's own stability threshold, held against the Hessian's largest eigenvalue."""

        def measure() -> tuple[float | Missing, Basis]:
            try:
                found = self.kept(stable_rate(self.matched, self.tensors, self.update.memory, self.update.source))
            except (MismatchError, NumericalError) as error:
                if isinstance(error, NumericalError):
                    self.error = error
                why = failed(error)
                return why, Basis("not possible", why.words)
            return found.learning_rate, found.words

        self._rate("sharpness", measure)

    def _rate(self, name: str, measure: Callable[[], tuple[float | Missing, Basis]]) -> float | Missing:
        """Adds the estimate of a rate that `measure` gives with what it rests on."""
        measured = self._with_cost(measure, name)
        if measured is None:
            return LIMIT_REACHED
        (rate, words), cost = measured
        self.estimates.append(Estimate(name, self.eta(rate), rate, words, self.shared + cost))
        self.advance()
        return rate

    def _certain(self, name: str, find: Callable[[], Crossing], before: float) -> Crossing | None:
        """Adds the estimate of how far the step is certain to descend, which cost `before` before it was looked for."""
        measured = self._with_cost(find, name)
        if measured is None:
            return None
        found, cost = measured
        self.error = found.stopped or self.error
        self.estimates.append(self._told(name, found, before + cost))
        return found

    def _told(self, name: str, found: Crossing, cost: float) -> Estimate:
        """The estimate of how far the step descends, and what it rests on."""
        eta: float | Missing = LIMIT_REACHED
        rate, words = eta, Basis(LIMIT_REACHED.words)
        if found.relation == "uncertifiable":
            words = Basis("the step goes uphill", "or noise leaves nothing of it")
            eta = rate = Missing(Why.UNCERTIFIABLE, words)
        elif found.slope_check(self.problem.base.loss).contradicted:
            words = Basis("another gradient", "the loss does not change as its gradient says")
            eta = rate = Missing(Why.UNCERTIFIABLE, words)
        elif found.unresolved:
            words = Basis("not resolved", "smaller steps change no weight in this dtype; --dtype float64 resolves them")
            eta = rate = Missing(Why.HIDDEN_BY_ROUNDING, words)
        elif found.eta is not None:
            uncertain = len(found.certificate.uncertain)
            alone = f"in all layers but {uncertain}" if uncertain else "in every layer"
            mean = "of the mean step, " if self.update.sampled else ""
            places = f"{mean}at the {counted(len(found.etas), 'step')} tried"
            if found.relation == "above-grid":
                places = f"as far as looked ({places})"
            elif not found.closed:
                places += f", no longer at {found.upper:.3g}"
            words = Basis(f"Lemma 1, {alone if found.criterion == 'layers' else 'all tensors summed'}", places)
            eta, rate = self.place(found.eta)
        elif found.stopped is None:
            words = Basis("no sure step", f"not even a relative step of {found.etas[0]:.2g}")
            eta = rate = Missing(Why.BELOW_GRID, words)
        return Estimate(name, eta, rate, words, cost)

    def _with_cost(self, measure: Callable[[], T], *names: str) -> tuple[T, float] | None:
        """What `measure` gives, and what it cost in gradients; where a limit comes before, the estimates say so."""
        before = gradients(self.problem.evaluations)
        found = self.within_limits(measure)
        if not isinstance(found, Missing):
            return found, gradients(self.problem.evaluations) - before
        self.estimates += [Estimate(name, found, found, Basis(found.words), 0.0) for name in names]
        return None


def begin(
    matched: MatchedState,
    tensors: Sequence[TrainableTensor],
    *,
    request: Request,
    advance: Callable[[], None],
    known: bool = True,
) -> RateSearch:
    """A measurement with the optimizer's next update taken and its noise measured."""
    update = next_update(matched, tensors, batch_size=request.batch_size, chunks=request.chunks)
    advance()
    moving = [tensor for tensor in tensors if tensor.name in update.step.steps]
    return RateSearch(matched, advance, moving, update, gradients(matched.problem.evaluations), known)
