"""What the implicit answers are made of: curvature with weight decay, the validation gradient, and cross terms.

A run rests where the gradient of the training loss and weight decay cancel. The cross term c of a
hyperparameter is the derivative of their sum by it, at fixed weights. The weights follow by dw = -(C + R)^-1 c.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fromage_cli.errors import MismatchError
from fromage_cli.missing import Missing, Why
from fromage_cli.optimizers.rule import SGD
from fromage_cli.probes.curvature.lanczos import Operator
from fromage_cli.probes.curvature.preconditioned_hessian import Preconditioning, each
from fromage_cli.probes.hypergradients.hyperparameters import Hyperparameter, Values, dropping
from fromage_cli.probes.hypergradients.running_statistics import RunningStatistics
from fromage_cli.probes.hypergradients.validation import Validation
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.next_step import preconditioner
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, gauss_newton, has_gauss_newton, hessian
from fromage_cli.problem.evaluation.gradient_pullback import gradient_by_scalars, gradients_of
from fromage_cli.problem.losses.hyperparameters import leaves, training_loss
from fromage_cli.theory.accumulation import norm

Curvature = Literal["gauss-newton", "hessian"]
"""Which matrix stands for the curvature of the training loss."""
CHANGE = 0.1
"""By which share of its value a dropout rate is moved either way; by half of what is kept at most."""


class Response:
    """How a run's weights answer to its hyperparameters, to first order; only the solve is left to others.

    Vectors are in the optimizer's metric: a weight times its `scale`. Dropout is off in the training loss, label
    smoothing and the user's scalars are at their values.
    Raises MismatchError where there is no such answer, see `no_response`, or where the state does not fit the model.
    """

    def __init__(
        self, matched: MatchedState, values: Values, curvature: Curvature = "gauss-newton", *, by_steps: bool = False
    ) -> None:
        """`by_steps`: in the metric of the optimizer's steps, that follow their rates and second moments."""
        self.training, self.values = matched.problem.drawn(0), values
        self.curvature, self.by_steps = curvature, by_steps
        self.problem = matched.problem.drawn(0)
        self.training.mode = "train"
        self.problem.mode = "eval" if matched.problem.mode == "eval" else "auto"
        self.problem.loss = self.training.loss = training_loss(matched.problem.loss, values.loss)
        if curvature == "gauss-newton" and not has_gauss_newton(self.problem):
            raise MismatchError(
                f"The Gauss-Newton matrix takes a loss that is a known function of the output, and this is "
                f"{self.problem.loss.name}.",
                "Give --lr, and the answer is taken through training steps; or --method hessian.",
            )
        self.matched = matched.on(self.problem)
        if (why := no_response(self.matched, by_steps=by_steps)) is not None:
            raise MismatchError(f"There is no implicit answer here, because {why.words}.", "Give --method unroll:N.")
        self.base_loss = matched.problem.loss
        self.space = WeightSpace([t for t in self.problem.receiving if t.name in values.rates])
        self.statistics = RunningStatistics(self.problem)

    @cached_property
    def preconditioning(self) -> Preconditioning:
        """The metric, and the diagonal of R."""
        tensors, rates, matrix = self.space.tensors, self.values.rates, None
        decay = self.spread(self.values.decays) if any(self.values.decays.values()) else None
        if self.decoupled or (self.by_steps and self.matched.optimizer.adaptive):
            matrix = self.adams_matrix
        scale = None if matrix is None else matrix.rsqrt()
        highest = max(rates.values())
        if self.by_steps and any(rates[tensor.name] < highest for tensor in tensors):
            roots = each(self.space, {name: (rate / highest) ** 0.5 for name, rate in rates.items()}, 0.0)
            scale = roots if scale is None else scale.mul_(roots)
        return Preconditioning(scale, decay)

    @property
    def decoupled(self) -> bool:
        """Whether weight decay goes past the gradient, so that the run rests where it cancels Adam's step."""
        return (self.matched.optimizer.rule or SGD).decay == "decoupled"

    @cached_property
    def adams_matrix(self) -> Tensor:
        """What Adam's step divides the gradient by, [n]."""
        known = preconditioner(self.matched)
        assert known is not None  # see no_response
        return self.space.flat([known[tensor.name] for tensor in self.space.tensors])

    @contextmanager
    def operator(self) -> Iterator[Operator]:
        """C + R in the metric, as a map of vectors [n] -> [n]."""
        curvature = gauss_newton if self.curvature == "gauss-newton" else hessian
        with self.preconditioning.operator(self.problem, self.space, curvature) as product:
            yield product

    def scaled(self, vector: Tensor) -> Tensor:
        """A gradient in the metric, or back from there a change of weights, [n]."""
        scale = self.preconditioning.scale
        return vector if scale is None else scale * vector

    def mean_eigenvalue(self, operator: Operator) -> float:
        """That of C in the metric, by one product with random signs."""
        like, scale, decay = self.decay_force, self.preconditioning.scale, self.preconditioning.decay
        generator = torch.Generator().manual_seed(self.problem.seed)
        signs = torch.randint(2, (like.numel(),), generator=generator).mul_(2).sub_(1).to(like)
        total = float((signs * operator(signs)).double().sum())
        if decay is not None:
            total -= float((decay if scale is None else decay * scale * scale).double().sum())
        return total / like.numel()

    @cached_property
    def gradient_norm(self) -> float:
        """That of the training gradient with decay: 0 where the run rests."""
        gradients = self.problem.base.gradients
        parts = [gradients[tensor.name] for tensor in self.space.tensors]
        decay = self.spread(self.values.decays) * self.space.flat(self.space.weights)
        return norm(self.space.flat(parts) + decay)

    def validation_gradient(self, validation: Validation) -> tuple[float, Tensor]:
        """The validation loss and its gradient [n], with the running statistics as functions of the weights.

        They are those of the training rows, so that what training does not depend on, validation does not either.
        """
        problem, tensors, statistics = self.problem, self.space.tensors, self.statistics
        if not statistics.modules:
            found = validation.gradient(tensors, statistics)
            return found.loss, self.space.flat(list(found.weights.values()))
        held = statistics.held()
        try:
            statistics.load(statistics.of_rows(problem))
            found = validation.gradient(tensors, statistics)
            through = statistics.pull_back_of_rows(problem, tensors, found.buffers)
        finally:
            statistics.load(held)
        return found.loss, self.space.flat(list(found.weights.values())) + self.space.flat(through)

    def gradients_of_parts(self, validation: Validation) -> Iterator[Tensor]:
        """The gradient of each part of the validation rows, [n]; 0 of a part without targets."""
        for batch, share in zip(validation.parts, validation.shares, strict=True):
            part = Validation(validation.problem.on(batch), (batch,))
            yield self.validation_gradient(part)[1] if share else torch.zeros_like(self.decay_force)

    @cached_property
    def decay_force(self) -> Tensor:
        """What decay of 1 on every tensor adds to the gradient: w, or P w where it is decoupled, [n]."""
        return self.spread(dict.fromkeys(self.values.rates, 1.0)) * self.space.flat(self.space.weights)

    def spread(self, decays: Mapping[str, float]) -> Tensor:
        """The diagonal of R for decays by tensor: themselves, or times P where they are decoupled, [n]."""
        found = each(self.space, decays, 0.0)
        return found.mul_(self.adams_matrix) if self.decoupled else found

    @cached_property
    def loss_forces(self) -> dict[str, Tensor]:
        """What each scalar of the training loss adds to the gradient, for a change of 1, [n]."""
        if not self.values.loss:
            return {}
        part, in_loss = self.problem.drawn(0), leaves(self.values.loss, self.problem.device)
        part.loss = training_loss(self.base_loss, in_loss)
        found = gradient_by_scalars(part, self.space.tensors, in_loss)
        return {name: self.space.flat(parts) for name, parts in found.items()}

    def dropout_force(self, place: str, draw: int = 0) -> Tensor:
        """What a dropout rate adds to the mean gradient, for a change of 1, by a central difference, [n].

        Both ends draw the same random numbers; costs two gradients.
        """
        held, part, ends = self.values.dropout, self.training.drawn(draw), []
        width = min(CHANGE * held[place], 0.5 * (1.0 - held[place]))
        for value in (held[place] - width, held[place] + width):
            with dropping(part.model, {**held, place: value}):
                _, gradients = gradients_of(part)
            parts = [gradients.get(t.name, torch.zeros_like(t.parameter)) for t in self.space.tensors]
            ends.append(self.space.flat(parts))
        return ends[1].sub_(ends[0]).div_(2.0 * width)

    def force(self, hyperparameter: Hyperparameter, draws: int) -> Tensor:
        """The cross term of a hyperparameter, its members keeping their ratios, [n]; of dropout the mean over draws."""
        values, members = self.values, hyperparameter.members
        shares = {name: hyperparameter.per_unit({**dict.fromkeys(members, 0.0), name: 1.0}, values) for name in members}
        if hyperparameter.place == "decay":
            return self.spread(shares) * self.space.flat(self.space.weights)
        total = torch.zeros_like(self.decay_force)
        for name, share in shares.items():
            if hyperparameter.place == "loss":
                total.add_(self.loss_forces[name], alpha=share)
                continue
            for draw in range(draws):
                total.add_(self.dropout_force(name, draw), alpha=share / draws)
        return total


def no_response(matched: MatchedState, *, by_steps: bool = False) -> Missing | None:
    """Why there is no implicit answer for an optimizer; None where there is one.

    `by_steps`: one after a number of steps, which have to be linear in the gradient.
    """
    rule = matched.optimizer.rule or SGD
    decoupled = rule.decay == "decoupled"
    if rule.decay != "coupled" and not (decoupled and rule.adaptive):
        return Missing(
            Why.NO_FORMULA, f"a run of {rule.title} rests at no point that the loss and weight decay alone determine"
        )
    if by_steps and rule.threshold is None:
        return Missing(Why.NO_FORMULA, f"the steps of {rule.title} are not linear in the gradient")
    needed = decoupled or (by_steps and rule.adaptive)
    if needed and {tensor.name for tensor in matched.problem.receiving} - set(preconditioner(matched) or ()):
        return Missing(
            Why.NO_STATE,
            "it takes Adam's second moments, which the checkpoint does not hold for every tensor; an answer for decay "
            "in the loss could be ten times off",
        )
    return None
