"""The Hessian as it decides over an optimizer's step: preconditioned by second moments, groups' rates and decay.

The step w - eta S P^-1 g along a quadratic is plain descent on the eigenvectors of M. Here
M = (S/P)^(1/2) (H + D) (S/P)^(1/2). P is Adam's preconditioner, S each tensor's rate over the highest, D the decay that
is part of the gradient. Source: Cohen et al., *Adaptive gradient methods at the edge of stability*, 2022.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_cli.probes.curvature.lanczos import Operator
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.next_step import preconditioner
from fromage_cli.probes.optimizer_step.real_step import MomentEstimates
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, hessian
from fromage_cli.problem.evaluation.problem import Problem

Curvature = Callable[[Problem, WeightSpace], AbstractContextManager[Operator]]
"""A matrix over some tensors, as a map of vectors."""


@dataclass(frozen=True)
class Preconditioning:
    """What turns the Hessian into the matrix that a threshold is held against."""

    scale: Tensor | None
    """(S/P)^(1/2), [n]; None where it is 1 everywhere."""
    decay: Tensor | None
    """The diagonal of D, [n]; None where it is 0 everywhere."""
    from_minibatches: bool = False
    """Whether Adam's second moments are those of minibatch gradients at fixed weights."""

    @contextmanager
    def operator(self, problem: Problem, space: WeightSpace, curvature: Curvature = hessian) -> Iterator[Operator]:
        """The preconditioned Hessian, or another matrix of curvature, as a map of vectors [n] -> [n].

        Raises MismatchError where the loss has no second derivative.
        """
        with curvature(problem, space) as product:

            def apply(vector: Tensor) -> Tensor:
                inner = vector if self.scale is None else self.scale * vector
                result = product(inner) if self.decay is None else product(inner).addcmul(self.decay, inner)
                return result if self.scale is None else self.scale * result

            yield apply


def precondition(
    matched: MatchedState, space: WeightSpace, estimates: Mapping[str, MomentEstimates] | None = None
) -> Preconditioning | None:
    """How the optimizer preconditions the Hessian; None where Adam's second moments are not known for every tensor.

    `estimates` stand in for them where the state holds none at all. Raises MismatchError when the state does not fit.
    """
    matrix, stands_in, optimizer = None, False, matched.optimizer
    if optimizer.adaptive:
        matrix = preconditioner(matched)
        if matrix is None:
            matrix = {
                n: k.square.sqrt().add_(optimizer.epsilon) for n, k in (estimates or {}).items() if k.square is not None
            }
            stands_in = True
        if any(tensor.name not in matrix for tensor in space.tensors):
            return None
    scale = space.flat([matrix[tensor.name] for tensor in space.tensors]).rsqrt_() if matrix is not None else None
    shares = matched.rate_shares
    if shares:
        roots = each(space, {name: share**0.5 for name, share in shares.items()}, 1.0)
        scale = roots if scale is None else scale.mul_(roots)
    decay = matched.decays if optimizer.coupled_decay else {}
    return Preconditioning(scale, each(space, decay, 0.0) if any(decay.values()) else None, stands_in)


def gradient_of(problem: Problem, space: WeightSpace) -> Tensor:
    """The gradient of all rows over the space, [n]; it lies near the first eigenvectors of a trained network."""
    return space.flat([problem.base.gradients[tensor.name] for tensor in space.tensors])


def groups_differ(matched: MatchedState, space: WeightSpace) -> bool:
    """Whether groups differ in rate or coupled decay, so that plain eigenvalues say nothing of the optimizer's step."""
    decay = matched.decays if matched.optimizer.coupled_decay else {}
    return bool(matched.rate_shares) or len({decay.get(t.name, 0.0) for t in space.tensors}) > 1


def each(space: WeightSpace, values: Mapping[str, float], otherwise: float) -> Tensor:
    """One number for each tensor, spread over its entries, [n]."""
    return space.flat([torch.full_like(t.parameter, values.get(t.name, otherwise)) for t in space.tensors])
