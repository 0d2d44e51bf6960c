"""Curvature as a map of vectors: the Hessian of the loss and its Gauss-Newton part, one graph for many products."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor, nn

from fromage_cli.problem.conditions.double_backward import double_backward, second_derivative_explained
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.backward_pass import failing_together
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.supervised_losses import SupervisedLoss, predict
from fromage_cli.problem.networks.layers import TrainableTensor

Operator = Callable[[Tensor], Tensor]
"""Of a vector [n], with a vector [n]."""
Product = Callable[[list[Tensor]], list[Tensor]]
"""Of tensors shaped as the weights, with tensors shaped as the weights."""
Graph = Callable[[Problem, Batch, list[nn.Parameter]], tuple[Product, float]]
"""The products with the curvature of one chunk's total loss, and the count that it is to be divided by."""


class WeightSpace:
    """Some trainable tensors seen as one vector."""

    def __init__(self, tensors: Sequence[TrainableTensor]) -> None:
        self.tensors = tuple(tensors)
        self.weights = [tensor.parameter for tensor in tensors]
        self._sizes = [weight.numel() for weight in self.weights]

    def flat(self, parts: Sequence[Tensor]) -> Tensor:
        """One vector [n] from tensors shaped as the weights."""
        return torch.cat([part.detach().reshape(-1) for part in parts])

    def split(self, vector: Tensor) -> list[Tensor]:
        """Tensors shaped as the weights, from one vector [n]."""
        parts = torch.split(vector, self._sizes)
        return [part.view(weight.shape) for part, weight in zip(parts, self.weights, strict=True)]


def hessian(problem: Problem, space: WeightSpace) -> AbstractContextManager[Operator]:
    """The Hessian of the loss over some tensors, as a map of vectors [n] -> [n].

    Raises MismatchError where the loss has no second derivative.
    """
    return _operator(problem, space, _hessian_of)


def gauss_newton(problem: Problem, space: WeightSpace) -> AbstractContextManager[Operator]:
    """The map v -> J^T H J v. J is the derivative of the model's output, H the Hessian of the loss by it.

    For cross-entropy, squared error and binary cross-entropy, by their names; see `has_gauss_newton`.
    """
    return _operator(problem, space, _gauss_newton_of)


def has_gauss_newton(problem: Problem) -> bool:
    """Whether the loss is a known function of the model's output."""
    return isinstance(problem.loss, SupervisedLoss)


@contextmanager
def twice_differentiated(problem: Problem, chunk: Batch) -> Iterator[None]:
    """One evaluation whose gradient is differentiated again. Raises MismatchError where that is not possible."""
    problem.budget.check()
    with problem.evaluation(chunk), double_backward(problem.model), second_derivative_explained():
        yield


@contextmanager
def _operator(problem: Problem, space: WeightSpace, graph: Graph) -> Iterator[Operator]:
    """One graph is kept for a batch in one piece; with several chunks each is built again for every product.

    The kept graph lives inside one evaluation: putting buffers back would make it refuse to run.
    """
    chunks, ranks = problem.own_chunks(), problem.ranks
    problem.drop_gradients()

    def rebuilt(vector: Tensor) -> Tensor:
        parts, total, count = space.split(vector), torch.zeros_like(vector), 0.0
        with failing_together(ranks):
            for chunk in chunks:
                with twice_differentiated(problem, chunk):
                    product, size = graph(problem, chunk, space.weights)
                    total += space.flat(product(parts))
                count += size
        ranks.add_up([total])
        problem.evaluations.hessian_vector_products += 1
        return total / ranks.sums([count])[0]

    try:
        with ExitStack() as kept:
            whole: list[tuple[Product, float]] = []
            with failing_together(ranks):
                if len(chunks) == 1:
                    kept.enter_context(problem.evaluation(chunks[0]))
                    kept.enter_context(double_backward(problem.model))
                    problem.budget.check()
                    with second_derivative_explained():
                        whole.append(graph(problem, chunks[0], space.weights))

            def retained(vector: Tensor) -> Tensor:
                problem.budget.check()
                ((product, count),) = whole
                with failing_together(ranks), second_derivative_explained():
                    result = space.flat(product(space.split(vector)))
                ranks.add_up([result])
                problem.evaluations.hessian_vector_products += 1
                return result / ranks.sums([count])[0]

            yield retained if whole else rebuilt
    finally:
        problem.drop_gradients()


def _hessian_of(problem: Problem, chunk: Batch, weights: list[nn.Parameter]) -> tuple[Product, float]:
    """Double backward of the scalar: forward-mode products are silently wrong through normalisation layers.

    An operation that is differentiable only once must raise and not silently count as linear: so the factor `one`
    makes every incoming gradient require a gradient, and each product runs through the whole graph.
    """
    terms = problem.loss(problem.model, chunk)
    one = torch.ones((), dtype=terms.total.dtype, device=terms.total.device, requires_grad=True)
    gradients = torch.autograd.grad(terms.total * one, weights, create_graph=True, materialize_grads=True)
    problem.drop_gradients()  # of a pass that the loss itself ran

    def product(vector: list[Tensor]) -> list[Tensor]:
        slope = torch.stack([(g * v).sum() for g, v in zip(gradients, vector, strict=True)]).sum()
        slope.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        found = [torch.zeros_like(w) if w.grad is None else w.grad.to_dense() for w in weights]
        problem.drop_gradients()
        return found

    return product, terms.count


def _gauss_newton_of(problem: Problem, chunk: Batch, weights: list[nn.Parameter]) -> tuple[Product, float]:
    """J v is the derivative of J^T u by u, which is linear in u: two backward passes, no forward mode."""
    loss = problem.loss
    assert isinstance(loss, SupervisedLoss)
    output, target = predict(problem.model, chunk)
    cotangent = torch.zeros_like(output).requires_grad_()
    pulled = torch.autograd.grad(output, weights, cotangent, create_graph=True, materialize_grads=True)
    leaf = output.detach().requires_grad_()
    terms = loss.terms(leaf, target)
    (slope,) = torch.autograd.grad(terms.total, leaf, create_graph=True)

    def product(vector: list[Tensor]) -> list[Tensor]:
        (pushed,) = torch.autograd.grad(pulled, cotangent, vector, retain_graph=True, materialize_grads=True)
        (curved,) = torch.autograd.grad(slope, leaf, pushed, retain_graph=True, materialize_grads=True)
        return list(torch.autograd.grad(output, weights, curved, retain_graph=True, materialize_grads=True))

    return product, terms.count
