"""Vectors pulled back through the gradient, as a map of the weights and of what the loss is made with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.double_backward import double_backward, second_derivative_explained
from fromage_cli.problem.evaluation.curvature_operators import twice_differentiated
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor, unwrapped


def gradients_of(problem: Problem) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient by tensor name, where the weights are now; a tensor that receives none is left out."""
    found: dict[str, Tensor] = {}
    loss = problem.visit_gradient(lambda tensor, gradient: found.__setitem__(tensor.name, gradient))
    return loss, found


def pull_back_gradient(
    part: Problem,
    tensors: Sequence[TrainableTensor],
    in_loss: Mapping[str, Tensor],
    adjoint_of: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    terms: Callable[[], Sequence[Tensor]] = tuple,
) -> list[Tensor]:
    """The derivative of <adjoint, gradient> + the terms by the weights and by what the loss is made with.

    `adjoint_of` gives the adjoint of the gradient once that is known; a tensor that receives none is left out of both.
    Of several chunks, or ranks, the gradient is computed first, and each chunk's graph is built again. `terms` are of
    one process. Raises MismatchError where the loss has no second derivative.
    """
    weights, chunks = [tensor.parameter for tensor in tensors], part.own_chunks()
    begins = [*weights, *in_loss.values()]
    total, adjoint, count = [torch.zeros_like(value) for value in begins], None, 1.0
    if len(chunks) > 1 or part.ranks.several:
        _, known = gradients_of(part)
        adjoint = adjoint_of({t.name: known[t.name] for t in tensors if t.name in known})
        count = targets_of(part)
    part.budget.check()
    for chunk in chunks:
        with part.evaluation(chunk), second_derivative_explained():
            with double_backward(part.model):
                found = part.loss(part.model, chunk)
                loss = found.total / (found.count if adjoint is None else count)
                one = torch.ones((), dtype=loss.dtype, device=loss.device, requires_grad=True)
                arrived = torch.autograd.grad(loss * one, weights, create_graph=True, allow_unused=True)
            gradients = {t.name: g for t, g in zip(tensors, arrived, strict=True) if g is not None}
            part.drop_gradients()
            if adjoint is None:
                adjoint = adjoint_of({name: gradient.detach() for name, gradient in gradients.items()})
            slopes = list(terms())
            if any(bool(adjoint[name].any()) for name in gradients):
                slopes += [(gradient * adjoint[name]).sum() for name, gradient in gradients.items()]
            if slopes:
                for leaf in in_loss.values():
                    leaf.grad = None  # of an earlier pass
                with double_backward(part.model):  # where activations are computed again in the backward pass
                    part.leave_gradients(torch.stack(slopes).sum())
                total = [
                    whole if each.grad is None else whole + each.grad for whole, each in zip(total, begins, strict=True)
                ]
                part.drop_gradients()
    part.drop_gradients()
    part.ranks.add_up(total)
    return total


def targets_of(part: Problem) -> float:
    """The loss's denominator on all rows, by a forward pass."""

    def count() -> float:
        found = 0.0
        for chunk in part.own_chunks():
            with part.evaluation(chunk):
                found += part.loss(part.model, chunk).count
        return part.ranks.sums([found])[0]

    return part.conditions.without_graph(count)


class GradientGraph:
    """A gradient with its graph, at given weights that stay as they are while the model moves on.

    For a batch in one piece, or in one for each rank, which holds the graph of its own rows; see `can_be_kept`.
    """

    def __init__(
        self,
        part: Problem,
        tensors: Sequence[TrainableTensor],
        weights: Mapping[str, Tensor],
        in_loss: Mapping[str, Tensor],
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Costs a gradient, which is computed `within` a context. Raises MismatchError without a second derivative."""
        part.budget.check()
        self._own: list[Tensor | None] = [None] * len(tensors)
        """The gradients of this rank's rows, with their graphs."""
        self.part, self.tensors, self.in_loss = part, tensors, in_loss
        self.weights = [weights[tensor.name].detach().requires_grad_() for tensor in tensors]
        kept: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        ranks, chunks = part.ranks, part.own_chunks()
        if not chunks:  # a rank without rows
            total, targets = ranks.sums([0.0, 0.0])
        for chunk in chunks:
            with self._in_place(), part.evaluation(chunk), within(), saved_tensors_hooks(count, lambda tensor: tensor):
                found = part.loss(part.model, chunk)
                total, targets = ranks.sums([float(found.total.detach()), found.count])
                mean = found.total / targets
                one = torch.ones((), dtype=mean.dtype, device=mean.device, requires_grad=True)
                self._own = list(torch.autograd.grad(mean * one, self.weights, create_graph=True, allow_unused=True))
        self.loss, self.nbytes = total / targets, int(max(ranks.of_each(sum(kept.values()))))
        self.complete = all(ranks.sums([float(gradient is not None) for gradient in self._own]))
        """Whether the model used the weights that were put in its place, and not others that it holds elsewhere."""
        self.gradients: dict[str, Tensor] = {}
        """By tensor name; none unless all are there."""
        if self.complete:
            held = zip(tensors, self.weights, self._own, strict=True)
            self.gradients = {t.name: torch.zeros_like(w) if g is None else g.detach() for t, w, g in held}
        if ranks.several:
            self.gradients = {name: gradient.clone() for name, gradient in self.gradients.items()}
            ranks.add_up(list(self.gradients.values()))

    def pull_back(self, adjoint: Mapping[str, Tensor], terms: Sequence[Tensor] = ()) -> list[Tensor]:
        """The derivative of <adjoint, gradient> + the terms by the weights and by what the loss is made with.

        Frees the graph.
        """
        begins = [*self.weights, *self.in_loss.values()]
        if not terms and not any(bool(each.any()) for each in adjoint.values()):
            return [torch.zeros_like(value) for value in begins]
        own = [(g, adjoint[t.name]) for t, g in zip(self.tensors, self._own, strict=True) if g is not None]
        own += [(term, torch.ones_like(term)) for term in terms]
        if own:
            with self._in_place():
                # the whole graph is run, so that an operation in it that is differentiable only once says so
                torch.autograd.backward([ending for ending, _ in own], [given for _, given in own])
        found = [torch.zeros_like(value) if value.grad is None else value.grad for value in begins]
        self.part.ranks.add_up(found)
        return found

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The model with these weights instead of its own, under the conditions of a second derivative."""
        before, model = [], unwrapped(self.part.model)
        try:
            for tensor, weight in zip(self.tensors, self.weights, strict=True):
                for name in (tensor.name, *tensor.aliases):
                    owner, _, leaf = name.rpartition(".")
                    held: Any = model.get_submodule(owner)._parameters
                    before.append((held, leaf, held[leaf]))
                    held[leaf] = weight
            with double_backward(self.part.model), second_derivative_explained():
                yield
        finally:
            for held, leaf, parameter in before:
                held[leaf] = parameter


def can_be_kept(problem: Problem) -> bool:
    """Whether graphs of a gradient may be held while the model moves on: other weights can be put in its place."""
    model = unwrapped(problem.model)
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    return problem.micro_batch is None and not scripted


def require_effect(problem: Problem, in_loss: Mapping[str, Tensor]) -> None:
    """Raises MismatchError where the loss does not depend on a scalar that it is made with. Costs a forward pass."""
    if not in_loss:
        return
    (chunk, *_) = problem.chunks()
    with problem.evaluation(chunk):
        total = problem.loss(problem.model, chunk).total
        slopes = torch.autograd.grad(total, list(in_loss.values()), allow_unused=True)
    for name, slope in zip(in_loss, slopes, strict=True):
        if slope is None:
            raise MismatchError(
                f"The training loss does not depend on {name}.",
                f"Leave it out, or let the loss use {name} as it comes, a tensor: float() and item() hide it.",
            )


def gradient_by_scalars(
    problem: Problem, tensors: Sequence[TrainableTensor], in_loss: Mapping[str, Tensor]
) -> dict[str, list[Tensor]]:
    """The derivative of the gradient by each scalar that the loss is made with, as tensors shaped as the weights.

    The order of the two derivatives does not matter: the derivative by a scalar is itself differentiated by the
    weights. Raises MismatchError where the loss has no second derivative.
    """
    problem.budget.check()
    weights = [tensor.parameter for tensor in tensors]
    found, count = {name: [torch.zeros_like(weight) for weight in weights] for name in in_loss}, 0.0
    for chunk in problem.own_chunks():
        with twice_differentiated(problem, chunk):
            terms = problem.loss(problem.model, chunk)
            one = torch.ones((), dtype=terms.total.dtype, device=terms.total.device, requires_grad=True)
            slopes = torch.autograd.grad(
                terms.total * one, list(in_loss.values()), create_graph=True, materialize_grads=True, allow_unused=True
            )
            for name, slope in zip(in_loss, slopes, strict=True):
                if slope.requires_grad:
                    parts = torch.autograd.grad(
                        slope, weights, retain_graph=True, materialize_grads=True, allow_unused=True
                    )
                    found[name] = [whole + part for whole, part in zip(found[name], parts, strict=True)]
            count += terms.count
    problem.drop_gradients()
    problem.ranks.add_up([whole for parts in found.values() for whole in parts])
    (count,) = problem.ranks.sums([count])
    problem.evaluations.hessian_vector_products += len(in_loss)
    return {name: [whole / count for whole in parts] for name, parts in found.items()}
