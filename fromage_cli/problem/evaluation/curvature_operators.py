"""Curvature as a map of vectors: the Hessian of the loss and its Gauss-Newton part, one graph for many products."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor, nn

from fromage_cli.problem.conditions.double_backward import double_backward, second_derivative_explained
from fromage_cli.problem.conditions.failing_together import failing_together
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.normal_numbers import NormalNumbers
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import weighed
from fromage_cli.problem.losses.supervised_losses import SupervisedLoss, predict
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.shards import is_sharded, joined, own_part, rows_of, spread_as

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
        self._shapes = [own_part(weight.detach()).shape for weight in self.weights]

    def flat(self, parts: Sequence[Tensor]) -> Tensor:
        """One vector [n] from tensors shaped as the weights."""
        return joined(self.weights[0], parts)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Tensors shaped as the weights, from one vector [n]."""
        parts = torch.split(own_part(vector), [shape.numel() for shape in self._shapes])
        own = [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        if not is_sharded(vector):
            return own
        return [spread_as(weight, part) for weight, part in zip(self.weights, own, strict=True)]

    def draw(self, generator: torch.Generator) -> Tensor:
        """A vector [n] of standard normal numbers, the same whether the weights are sharded or not."""
        total = sum(weight.numel() for weight in self.weights)
        drawn, begin, own = NormalNumbers(generator, total, self.weights[0]), 0, []
        for weight, shape in zip(self.weights, self._shapes, strict=True):
            first = begin
            if is_sharded(weight) and weight.numel():
                first += rows_of(weight)[0] * (weight.numel() // weight.shape[0] if weight.dim() else 1)
            own.append(drawn.stretch(first, first + shape.numel()).view(shape))
            begin += weight.numel()
        drawn.finish()
        whole = not is_sharded(self.weights[0])
        return self.flat(own if whole else [spread_as(w, part) for w, part in zip(self.weights, own, strict=True)])


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
    """One evaluation whose gradient is differentiated again. Raises MismatchError where that is not possible.

    Looks at no limit, which ranks do together: they may have different numbers of chunks.
    """
    with problem.evaluation(chunk), double_backward(problem.model), second_derivative_explained():
        yield


@contextmanager
def _operator(problem: Problem, space: WeightSpace, graph: Graph) -> Iterator[Operator]:
    """One graph is kept for a batch in one piece; with several chunks each is built again for every product.

    The kept graph lives inside one evaluation: putting buffers back would make it refuse to run.
    """
    chunks, ranks = problem.own_chunks(), problem.ranks
    problem.budget.check()
    problem.drop_gradients()
    targets: list[float] = []
    """Of all rows, once a product has been made."""

    def mean(total: Tensor, own: float) -> Tensor:
        ranks.add_up([total])
        targets[:] = targets or ranks.sums([own])
        problem.evaluations.hessian_vector_products += 1
        return total / targets[0]

    def rebuilt(vector: Tensor) -> Tensor:
        problem.budget.check()
        parts, total, count = space.split(vector), torch.zeros_like(vector), 0.0
        with failing_together(ranks):
            for chunk in chunks:
                with twice_differentiated(problem, chunk):
                    product, size = graph(problem, chunk, space.weights)
                    total += space.flat(product(parts))
                count += size
        return mean(total, count)

    try:
        with ExitStack() as kept:
            whole: list[tuple[Product, float]] = []
            with failing_together(ranks):
                if len(chunks) == 1:
                    kept.enter_context(problem.evaluation(chunks[0]))
                    kept.enter_context(double_backward(problem.model))
                    with second_derivative_explained():
                        whole.append(graph(problem, chunks[0], space.weights))

            def retained(vector: Tensor) -> Tensor:
                problem.budget.check()
                ((product, count),) = whole
                with failing_together(ranks), second_derivative_explained():
                    result = space.flat(product(space.split(vector)))
                return mean(result, count)

            yield retained if whole else rebuilt
    finally:
        problem.drop_gradients()


def along(parts: Sequence[Tensor], direction: Sequence[Tensor]) -> Tensor:
    """The inner product of tensors, a scalar with its graph; where they are sharded, this rank's part of it."""
    pairs = zip(parts, direction, strict=True)
    return torch.stack([(own_part(part) * own_part(other)).sum() for part, other in pairs]).sum()


def dense(gradient: Tensor) -> Tensor:
    """A gradient with all its entries."""
    return gradient.to_dense() if gradient.is_sparse else gradient


def _hessian_of(problem: Problem, chunk: Batch, weights: list[nn.Parameter]) -> tuple[Product, float]:
    """Double backward of the scalar: forward-mode products are silently wrong through normalisation layers.

    An operation that is differentiable only once must raise and not silently count as linear: so the factor `one`
    makes every incoming gradient require a gradient, and each product runs through the whole graph.
    """
    terms = weighed(problem.loss(problem.model, chunk), chunk)
    one = torch.ones((), dtype=terms.total.dtype, device=terms.total.device, requires_grad=True)
    gradients = torch.autograd.grad(terms.total * one, weights, create_graph=True, materialize_grads=True)
    problem.drop_gradients()  # of a pass that the loss itself ran

    def product(vector: list[Tensor]) -> list[Tensor]:
        along(gradients, vector).backward(retain_graph=True)  # type: ignore[no-untyped-call]
        found = [torch.zeros_like(w) if w.grad is None else dense(w.grad) for w in weights]
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
    terms = weighed(loss.terms(leaf, target), chunk)
    (slope,) = torch.autograd.grad(terms.total, leaf, create_graph=True)

    def product(vector: list[Tensor]) -> list[Tensor]:
        (pushed,) = torch.autograd.grad(pulled, cotangent, vector, retain_graph=True, materialize_grads=True)
        (curved,) = torch.autograd.grad(slope, leaf, pushed, retain_graph=True, materialize_grads=True)
        return list(torch.autograd.grad(output, weights, curved, retain_graph=True, materialize_grads=True))

    return product, terms.count
