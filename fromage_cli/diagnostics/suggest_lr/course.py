"""One search for safe rates on its way: estimate by estimate, each with what it costs, until a limit is reached."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.diagnostics.suggest_lr.held_out_rows import critical_on_others
from fromage_cli.diagnostics.suggest_lr.result import LIMIT, Estimate
from fromage_cli.errors import FromageError, MismatchError, NumericalError, ResourceError
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.curvature.stable_rate import stable_rate
from fromage_cli.probes.lines.critical import critical_rate
from fromage_cli.probes.lines.crossing import Crossing, find_crossing, find_sum_crossing
from fromage_cli.probes.optimizer_step.next_update import CHUNKS, NextUpdate, next_update
from fromage_cli.probes.structure.depth import measure_depth
from fromage_cli.problem.evaluation.problem import Evaluations, Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.terminal.words import counted
from fromage_cli.theory.conversions import largest_rate, relative_step
from fromage_cli.theory.relative_trust import lemma2_rate

FORWARD, PRODUCT = 1.0 / 3.0, 7.0 / 3.0
"""What a forward pass and a Hessian-vector product cost, in gradients."""
WORDS = {
    "lemma2-count": "Lemma 2, depth {depth}; deep relative trust, every weight tensor counted: can it be trained",
    "lemma2-path": "Lemma 2, depth {depth}; the same on the longest path",
    "lemma2-effective": "Lemma 2, depth {depth:.3g}; the same with residual branches weighed",
}


def gradients(evaluations: Evaluations) -> float:
    """What was computed, in gradients of all rows."""
    products = evaluations.hessian_vector_products
    return evaluations.gradients + FORWARD * evaluations.forwards + PRODUCT * products


@dataclass(frozen=True)
class Wish:
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
    fresh: Callable[[], Problem | None] = lambda: None
    """Makes the problem again on a network as its factory makes it."""


@dataclass
class Course:
    """One search on its way, for one optimizer."""

    problem: Problem
    tensors: Sequence[TrainableTensor]
    optimizer: Optimizer
    state: OptimizerState | None
    update: NextUpdate
    shared: float
    """What base gradient and noise cost, in gradients; every estimate along the step rests on them."""
    advance: Callable[[], None]
    known: bool = True
    """Whether this is the optimizer that was asked about; else only relative steps are told."""
    estimates: list[Estimate] = field(default_factory=list)
    error: FromageError | None = None

    def rate(self, eta: float | None) -> float | None:
        """The learning rate at which no layer moves by more than eta."""
        return largest_rate(eta, self.update.relative_steps)[0] if self.known and eta is not None else None

    def eta(self, rate: float | None) -> float | None:
        """The largest relative step of a learning rate."""
        return relative_step(rate, self.update.relative_steps) if rate is not None else None

    def lemma2(self) -> None:
        """Three readings of the depth, all with the smallest cosine of a layer."""
        if self._over(*WORDS):
            return
        layers = [tensor.name for tensor in self.tensors if tensor.is_layer and tensor.name in self.update.cosines]
        least = min(layers, key=lambda name: self.update.cosines[name].value, default=None)
        with self._counted(*WORDS) as spent:
            depth = measure_depth(self.problem)
            for name, layers_deep in zip(WORDS, (depth.count, depth.path, depth.effective), strict=True):
                eta, words = None, WORDS[name].format(depth=layers_deep or 0)
                if layers_deep is None:
                    words = "not told; the graph hides the depth"
                elif least is None or self.update.cosines[least].value <= 0.0:
                    words = f"no positive cosine; Lemma 2 needs one in every layer, {least} has none"
                else:
                    eta = lemma2_rate(self.update.cosines[least].value, layers_deep)
                self._add(name, eta, self.rate(eta), words, self.shared + spent())

    def measured(self) -> Crossing | None:
        """How far the step is certain to descend."""
        if self._over("measured"):
            return None
        with self._counted("measured") as spent:
            found = find_crossing(self.problem, self.update.line.direction, self.update.levels, self.advance)
            if found.stopped is not None:
                self.error = found.stopped
            words = _words(found, self.update.sampled)
            self._add("measured", found.eta, self.rate(found.eta), words, self.shared + spent())
            return found
        return None

    def measured_together(self, found: Crossing) -> Crossing | None:
        """How far it is certain by the sum over all tensors, where layers by themselves are certain less far."""
        name = "measured-sum"
        if found.criterion == "sum" or found.relation not in ("crossing", "below-grid") or self._over(name):
            return None
        with self._counted(name) as spent:
            whole = find_sum_crossing(self.problem, found, self.advance)
            if whole.stopped is not None:
                self.error = whole.stopped
            before = next(each.gradient_evaluations for each in self.estimates if each.name == "measured")
            words = _words(whole, self.update.sampled)
            self._add(name, whole.eta, self.rate(whole.eta), words, before + spent())
            return whole
        return None

    def critical(self, start: float) -> float | None:
        """The smallest rate whose step raises the loss: on the rows of its own gradient, and on others."""
        with self._counted("critical") as spent:
            if self._over("critical"):
                return None
            moved, words = self.update.moved(self.tensors), "no rise seen; at none of the rates tried"
            try:
                rate = critical_rate(self.problem, moved, start, self.optimizer.contraction)
            except NumericalError as rounded:
                rate, words = None, f"not resolved; {rounded.message}"
            if rate is not None:
                words = "the loss rises; on the batch that gave the step"
            elif self.update.line.descent <= 0.0:
                words = "no descent; the step goes uphill on the batch"
            self._add("critical", self.eta(rate), rate, words, self.shared + spent())
            self.advance()
            return rate
        return None

    def critical_elsewhere(self, start: float) -> float | None:
        """The same on rows that the step knows nothing of."""
        name = "critical-independent"
        if self._over(name):
            return None
        with self._counted(name) as spent:
            rate, words = critical_on_others(self.problem, self.update, self.tensors, self.state, start)
            self._add(name, self.eta(rate), rate, words, self.shared + spent())
            self.advance()
            return rate
        return None

    def sharpness(self) -> None:
        """The optimizer's own stability threshold, held against the Hessian's largest eigenvalue."""
        name = "sharpness"
        if self._over(name):
            return
        with self._counted(name) as spent:
            try:
                found = stable_rate(self.problem, self.tensors, self.optimizer, self.state, self.update.memory)
            except (MismatchError, NumericalError) as error:
                if isinstance(error, NumericalError):
                    self.error = error
                self._add(name, None, None, f"not possible; {error.message.splitlines()[0]}", self.shared + spent())
                return
            if found.stopped is not None:
                self.error = found.stopped
            self._add(name, self.eta(found.learning_rate), found.learning_rate, found.words, self.shared + spent())
            self.advance()

    def _add(self, name: str, eta: float | None, rate: float | None, assumption: str, cost: float) -> None:
        self.estimates.append(Estimate(name, eta, rate, assumption, cost))

    @contextmanager
    def _counted(self, *names: str) -> Iterator[Callable[[], float]]:
        """What is spent inside; a limit that is reached there is kept, and the estimates it leaves out are named."""
        before = gradients(self.problem.evaluations)
        try:
            yield lambda: gradients(self.problem.evaluations) - before
        except ResourceError as limit:
            self.error = limit
            self._over(*names)

    def _over(self, *names: str) -> bool:
        """Whether a limit was reached; then the estimates have that for a reason."""
        if not isinstance(self.error, ResourceError):
            return False
        known = {estimate.name for estimate in self.estimates}
        for name in names:
            if name not in known:
                self._add(name, None, None, LIMIT, 0.0)
        return True


def begin(
    problem: Problem,
    tensors: Sequence[TrainableTensor],
    optimizer: Optimizer,
    state: OptimizerState | None,
    *,
    wish: Wish,
    advance: Callable[[], None],
    known: bool = True,
) -> Course:
    """The course with the optimizer's next update taken and its noise measured."""
    update = next_update(
        problem, tensors, optimizer, state, batch_size=wish.batch_size, chunks=wish.chunks, remember=not known
    )
    advance()
    moving = [tensor for tensor in tensors if tensor.name in update.step.steps]
    return Course(problem, moving, optimizer, state, update, gradients(problem.evaluations), advance, known)


def _words(found: Crossing, sampled: bool) -> str:
    """What the measured limit rests on: a few words; the rest after a semicolon."""
    if found.relation == "uncertifiable":
        return "nothing certain; the step, or what noise leaves of it, does not descend"
    if found.stopped is not None and found.eta is None:
        return LIMIT
    if found.relation == "below-grid":
        return f"nothing certain; not even a relative step of {found.etas[0]:.2g}"
    alone = "in every layer" if not (but := len(found.certificate.uncertain)) else f"in all layers but {but}"
    certain = f"certain {alone if found.criterion == 'layers' else 'on the whole'}"
    mean = "of the mean step, " if sampled else ""
    places = f"{mean}Lemma 1, gradients at {counted(len(found.etas), 'step')}"
    if found.relation == "above-grid":
        return f"{certain}; as far as was looked ({places})"
    return f"{certain}; {places}" if found.closed else f"{certain}; {places}, certain no more at {found.upper:.3g}"
