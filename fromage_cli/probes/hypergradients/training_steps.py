"""The next training steps from a checkpoint, as a map from hyperparameters to the weights at their end.

The optimizer is the user's own, from its saved state. Each tensor has a parameter group, so that its rate and its
weight decay are hyperparameters of their own.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fromage_cli.counting import counted
from fromage_cli.errors import NumericalError
from fromage_cli.probes.hypergradients.closed_forms import pull_back_step
from fromage_cli.probes.hypergradients.differentiable_step import StepInputs
from fromage_cli.probes.hypergradients.hyperparameters import Values, dropping
from fromage_cli.probes.hypergradients.running_statistics import Buffers, PulledBack, RunningStatistics
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.real_step import load_slot
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.gradient_pullback import GradientGraph, gradients_of, pull_back_gradient
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.hyperparameters import leaves, training_loss

Tensors = dict[str, Tensor]
"""By the name of a tensor of the model."""


@dataclass(frozen=True)
class RunState:
    """What a training run goes on from."""

    weights: Tensors
    slots: dict[str, dict[str, Any]]
    """What the optimizer remembers of each tensor."""
    buffers: Buffers

    @property
    def nbytes(self) -> int:
        """Of all tensors together."""
        held = [*self.weights.values(), *self.buffers.values()]
        held += [value for slot in self.slots.values() for value in slot.values() if isinstance(value, Tensor)]
        return sum(tensor.nbytes for tensor in held)


@dataclass
class Adjoint:
    """The derivative of one number by everything that a run goes on from, and by its hyperparameters."""

    weights: Tensors
    slots: dict[str, Tensors]
    buffers: Buffers
    rates: dict[str, float]
    decays: dict[str, float]
    loss: dict[str, float]


class TrainingSteps:
    """Real steps on given batches; step k of every run sees the same rows and draws the same random numbers."""

    def __init__(self, matched: MatchedState, batches: Sequence[Batch], values: Values) -> None:
        self.problem, self.matched, self.batches, self.values = matched.problem, matched, batches, values
        rule = matched.optimizer.rule
        assert rule is not None  # refused by whoever found no optimizer
        self.record, self.rule = rule, rule.load_class()
        self.tensors = [tensor for tensor in self.problem.receiving if tensor.name in values.rates]
        self.statistics = RunningStatistics(self.problem)
        self.draw = 0

    def drawn(self, draw: int, batches: Sequence[Batch]) -> "TrainingSteps":
        """As many steps on other batches and with other random numbers; draw 0 has the numbers of these."""
        other = copy(self)
        other.draw, other.batches = draw, batches
        return other

    @contextmanager
    def from_checkpoint(self) -> Iterator[RunState]:
        """The state that every run begins with; weights, statistics and `.grad` are afterwards as before."""
        problem, held = self.problem, self.statistics.held()
        gradients = [tensor.parameter.grad for tensor in problem.trainable]
        try:
            with problem.displaced(self.tensors) as origin, problem.steady():
                # Fromage keeps the norm that it bounds, which is no memory of gradients
                taken = self.matched.holds_memory or not self.record.slots
                members = self.matched.members if taken else {}
                slots = {}
                for tensor in self.tensors:
                    slot, _ = members.get(tensor.name, (None, {}))
                    amsgrad = bool(self._settings(tensor.name).get("amsgrad"))
                    kept = {} if slot is None else load_slot(slot, tensor.parameter, self.record, amsgrad)
                    slots[tensor.name] = {name: value for name, value in kept.items() if value is not None}
                yield RunState({tensor.name: origin[tensor.name] for tensor in self.tensors}, slots, held)
        finally:
            self.statistics.load(held)
            for tensor, gradient in zip(problem.trainable, gradients, strict=True):
                tensor.parameter.grad = gradient

    def run(
        self,
        start: RunState,
        values: Values,
        first: int = 0,
        last: int | None = None,
        *,
        keep: Callable[[int, Callable[[], RunState]], RunState | None] = lambda step, state: None,
        graphs: "Graphs | None" = None,
        finish: bool = True,
    ) -> None:
        """Takes steps `first` to `last` from a state and leaves the model at their end.

        `keep` is called before every step with its number and a function that copies the state. Where it returns a
        copy, `graphs` takes the graph of the gradient there, as far as it has room. Without `finish` the last step is
        kept but not taken. Raises NumericalError where a loss is not finite.
        """
        problem, last = self.problem, len(self.batches) if last is None else last
        for tensor in self.tensors:
            tensor.parameter.data.copy_(start.weights[tensor.name])
        self.statistics.load(start.buffers)
        optimizer = self._optimizer({t.name: t.parameter for t in self.tensors}, start.slots, values)

        def state() -> RunState:
            return RunState(
                {t.name: t.parameter.detach().clone() for t in self.tensors},
                {t.name: _copied(optimizer.state.get(t.parameter, {})) for t in self.tensors},
                self.statistics.held(),
            )

        with dropping(problem.model, values.dropout):
            for step in range(first, last):
                kept, stops = keep(step, state), step == last - 1 and not finish
                part = self._part(step, values.loss)
                with self.statistics.updated() as buffers:
                    loss: float | None = None
                    gradients: Tensors = {}
                    if graphs is not None and kept is not None and graphs.have_room(last - step):
                        loss, gradients = graphs.add(step, self._graph(part, kept, values))
                    if loss is None:
                        if stops:
                            return
                        loss, gradients = gradients_of(part)
                problem.evaluations.gradients += part.rows / problem.rows
                if not math.isfinite(loss):
                    raise NumericalError(
                        f"The training loss is {loss} after {counted(step, 'further step')}.",
                        "Ask for fewer steps (--method unroll:N), or give a smaller --lr.",
                    )
                if stops:
                    return
                self.statistics.load(buffers)
                for tensor in self.tensors:
                    tensor.parameter.grad = gradients.get(tensor.name)
                try:
                    optimizer.step()
                finally:
                    problem.drop_gradients()

    def _graph(self, part: Problem, state: RunState, values: Values) -> "StepGraph":
        """The gradient of a step with its graph."""
        in_loss = leaves(values.loss, self.problem.device)
        part.loss = training_loss(self.problem.loss, in_loss)
        with self.statistics.pulled_back({}) as passes:  # from an adjoint that is not known yet
            graph = GradientGraph(part, self.tensors, state.weights, in_loss, self.statistics.apart)
        return StepGraph(graph, passes)

    def pull_back(
        self, step: int, state: RunState, values: Values, after: Adjoint, kept: "StepGraph | None" = None
    ) -> Adjoint:
        """The adjoint before a step, from that after it.

        Costs a gradient and a Hessian-vector product, or the product alone where the graph of the gradient was `kept`.
        It costs no product where the step does not depend on the gradient's size, as through a sign.
        """
        before = Adjoint({}, {}, {}, dict(after.rates), dict(after.decays), dict(after.loss))
        if kept is not None:
            graph, passes = kept.graph, replace(kept.passes, adjoint=after.buffers)
            adjoint, before.buffers = (
                self._through_optimizer(graph.gradients, state, values, after, before),
                passes.before(),
            )
            with dropping(self.problem.model, values.dropout):
                return self._added(before, graph.pull_back(adjoint, passes.terms()), graph.part, graph.in_loss)
        for tensor in self.tensors:
            tensor.parameter.data.copy_(state.weights[tensor.name])
        self.statistics.load(state.buffers)
        part, in_loss = self._part(step, values.loss), leaves(values.loss, self.problem.device)
        part.loss = training_loss(self.problem.loss, in_loss)

        def through_optimizer(gradients: Mapping[str, Tensor]) -> Tensors:
            return self._through_optimizer(gradients, state, values, after, before)

        with dropping(self.problem.model, values.dropout), self.statistics.pulled_back(after.buffers) as passes:
            slopes = pull_back_gradient(part, self.tensors, in_loss, through_optimizer, passes.terms)
            before.buffers = passes.before()
        return self._added(before, slopes, part, in_loss)

    def _added(
        self, before: Adjoint, slopes: Sequence[Tensor], part: Problem, in_loss: Mapping[str, Tensor]
    ) -> Adjoint:
        """The adjoint with what comes through the gradient."""
        for tensor, slope in zip(self.tensors, slopes, strict=False):
            before.weights[tensor.name].add_(slope)
        for name, slope in zip(in_loss, slopes[len(self.tensors) :], strict=True):
            before.loss[name] = before.loss.get(name, 0.0) + float(slope)
        self.problem.evaluations.hessian_vector_products += part.rows / self.problem.rows
        return before

    def _part(self, step: int, in_loss: Mapping[str, float]) -> Problem:
        """The training loss on the rows of one step, with random numbers of its own."""
        batch = self.batches[step].to(self.problem.device, self.problem.dtype)
        part = self.problem.on(batch)
        part.seed = self.problem.seed + step + self.draw * len(self.batches)
        part.loss = training_loss(self.problem.loss, in_loss)
        return part

    def _settings(self, name: str) -> dict[str, Any]:
        """What the class that steps takes for a tensor beside rate and weight decay."""
        settings = {k: v for k, v in self.matched.own(name).arguments.items() if k != "weight_decay"}
        group = self.matched.members[name][1] if name in self.matched.members else {}
        return settings | ({"maximize": True} if group.get("maximize") else {})

    def _optimizer(
        self, weights: Mapping[str, Tensor], slots: Mapping[str, Mapping[str, Any]], values: Values, **more: Any
    ) -> torch.optim.Optimizer:
        """The user's optimizer on these weights, as it stands after its last step."""
        groups = [
            {"params": [weight], **self._settings(name), "lr": values.rates[name]}
            | ({"weight_decay": values.decays[name]} if values.decays else {})
            for name, weight in weights.items()
        ]
        optimizer = self.rule(groups, **more)
        for name, weight in weights.items():
            if slots[name]:
                optimizer.state[weight] = _copied(slots[name])
        return optimizer

    def _through_optimizer(
        self, gradients: Mapping[str, Tensor], state: RunState, values: Values, after: Adjoint, before: Adjoint
    ) -> Tensors:
        """Pulls the adjoint back through what the optimizer makes of a gradient, and gives that of the gradient."""
        names = list(gradients)
        settings = [{**self._settings(n), "lr": values.rates[n], "weight_decay": values.decays.get(n)} for n in names]
        inputs = [
            StepInputs(state.weights[name], gradients[name], state.slots[name], group)
            for name, group in zip(names, settings, strict=True)
        ]
        weights, slots = [after.weights[n] for n in names], [after.slots.get(n, {}) for n in names]
        adjoints = pull_back_step(self.record, inputs, weights, slots)
        for name, adjoint in zip(names, adjoints, strict=True):
            before.weights[name], before.slots[name] = adjoint.weight, adjoint.slot
            before.rates[name] = before.rates.get(name, 0.0) + adjoint.rate
            before.decays[name] = before.decays.get(name, 0.0) + adjoint.decay
        for tensor in self.tensors:
            if (name := tensor.name) not in gradients:  # which optimizers pass over
                before.weights[name], before.slots[name] = after.weights[name].clone(), after.slots.get(name, {})
        return {name: adjoint.gradient for name, adjoint in zip(names, adjoints, strict=True)}


@dataclass(frozen=True)
class StepGraph:
    """The gradient of one step with its graph, and what the step added to running statistics."""

    graph: GradientGraph
    passes: PulledBack
    """Their adjoint comes later."""


class Graphs:
    """Graphs of gradients that are kept for the way back, as many as there is room for."""

    def __init__(self, room: float) -> None:
        """`room`: bytes."""
        self.room, self.size = room, 0
        self.held: dict[int, StepGraph] = {}

    def have_room(self, ahead: int) -> bool:
        """Whether there is room for so many more graphs: those of this step and of all behind it."""
        return self.room > 0.0 and ahead * self.size <= self.room

    def add(self, step: int, kept: StepGraph) -> tuple[float | None, Tensors]:
        """Keeps a graph; its loss and gradient, or neither where the model does not let its weights be replaced."""
        self.size = max(self.size, kept.graph.nbytes)
        if not kept.graph.complete:
            self.room = 0.0
            return None, {}
        self.held[step] = kept
        return kept.graph.loss, kept.graph.gradients

    def taken(self, step: int) -> StepGraph | None:
        """The graph of a step, which is then no longer held here."""
        return self.held.pop(step, None)


def _copied(slot: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in slot.items()}
