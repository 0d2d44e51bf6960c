"""What one gradient costs on this machine; commands state their cost beforehand in these."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from fromage_cli.problem.conditions.budget import resident_memory
from fromage_cli.problem.evaluation.fitting import fitted
from fromage_cli.problem.evaluation.problem import Evaluations, Problem
from fromage_cli.problem.evaluation.streamed_hessian import make_product
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.process_memory import peak_memory
from fromage_cli.shards import is_sharded, own_part
from fromage_cli.theory.accumulation import distance

FORWARD, PRODUCT = 1.0 / 3.0, 7.0 / 3.0
"""What a forward pass and a Hessian-vector product cost, in gradients."""


def gradients(evaluations: Evaluations) -> float:
    """What was computed, in gradients of all rows."""
    products = evaluations.hessian_vector_products
    return evaluations.gradients + FORWARD * evaluations.forwards + PRODUCT * products


@dataclass(frozen=True)
class Cost:
    """What a gradient of the whole batch costs."""

    seconds: float
    """Of the faster of two."""
    loading: float
    """Seconds from the start of the process to the first, plus what the first of a kind takes longer."""
    product_seconds: float
    """Of the faster of two Hessian-vector products; 0 where none was asked for or the loss has no second derivative."""
    resident: int
    """Bytes in use by the process, or on the accelerator, once the problem is loaded and every kernel was used."""
    weights: int
    """Bytes of the tensors that receive a gradient; of sharded ones those of this rank's rows."""
    activations: int
    """Bytes that the forward pass of a chunk keeps for its backward pass."""
    product_activations: int = 0
    """Bytes that the first backward pass of a Hessian-vector product and its forward pass keep for the second."""
    gathered: int = 0
    """Bytes of the largest tensor that ranks gather, and of its gradient while they add it up; 0 where none is."""

    def time(self, gradients: float, products: float = 0.0) -> float:
        """Seconds for so many gradients and Hessian-vector products, loading included."""
        return self.loading + self.seconds * gradients + self.product_seconds * products

    def equivalent(self, products: float) -> float:
        """The gradients that take as long as so many Hessian-vector products."""
        return self.product_seconds * products / self.seconds

    def memory(self, copies: float, products: bool = False) -> int:
        """Peak bytes with so many copies of the weights beside them, with or without double backward."""
        kept = self.product_activations if products else self.activations
        return int(self.resident + copies * self.weights + kept + self.gathered)


def measure_cost(problem: Problem, products: bool = False) -> Cost:
    """Times two gradients, counting what the first one keeps, and two Hessian-vector products if asked to."""
    # what the processor did counts from the start of the process, before there was a budget, and no waiting for files
    resident, loading = peak_memory() or 0, max(time.monotonic() - problem.budget.started, time.process_time())
    earlier, known = resident_memory() or 0, "base" in problem.__dict__
    kept, kept_by_product = KeptForBackward(problem), KeptForBackward(problem)

    def first_gradient() -> float:
        kept.most = 0  # of a pass that did not fit
        return problem.visit_gradient(_ignore)

    with kept.counted():
        gradients = [timed(problem, lambda: fitted(problem, first_gradient))]
    gradients.append(timed(problem, lambda: problem.visit_gradient(_ignore)))
    if products and not known:
        gradients.append(timed(problem, lambda: problem.base))
    made = problem.evaluations.hessian_vector_products
    with kept_by_product.counted():
        again = [timed(problem, lambda: make_product(problem)) for _ in range(products)]
    again += [timed(problem, lambda: make_product(problem)) for _ in range(products)]
    again = again if problem.evaluations.hessian_vector_products > made else [0.0]
    loading += gradients[0] - min(gradients) + again[0] - min(again)
    size = sum(own_part(tensor.parameter.detach()).nbytes for tensor in problem.receiving)
    largest = max((whole.nbytes for whole in problem.model.parameters() if is_sharded(whole)), default=0)
    loaded = (resident_memory() or 0) - earlier - (0 if known else size)
    return Cost(
        seconds=min(gradients),
        loading=loading,
        product_seconds=min(again),
        resident=resident + max(0, loaded),
        weights=size,
        activations=kept.most,
        product_activations=kept_by_product.most,
        gathered=2 * largest,
    )


class KeptForBackward:
    """The most bytes that passes keep at once for a backward pass, beside the weights themselves."""

    def __init__(self, problem: Problem) -> None:
        self.most = self._now = 0
        self._uses: Counter[StorageWeakRef] = Counter()
        self._weights = {_memory(tensor.parameter) for tensor in problem.trainable}

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts what is kept within it; hooks around it, by which gathered weights are not kept, stay in force."""
        around = torch._C._autograd._top_saved_tensors_default_hooks(True)
        pack, unpack = around or (lambda tensor: tensor, lambda packed: packed)

        def count(tensor: Tensor) -> _Kept:
            kept = _Kept(pack(tensor))
            if isinstance(kept.packed, Tensor) and (memory := _memory(kept.packed)) not in self._weights:
                size = own_part(kept.packed.detach()).untyped_storage().nbytes()
                self._use(memory, size)
                finalize(kept, self._let_go, memory, size)
            return kept

        with saved_tensors_hooks(count, lambda kept: unpack(kept.packed)):
            yield

    def _use(self, memory: StorageWeakRef, size: int) -> None:
        self._now += 0 if self._uses[memory] else size
        self._uses[memory] += 1
        self.most = max(self.most, self._now)

    def _let_go(self, memory: StorageWeakRef, size: int) -> None:
        self._uses[memory] -= 1
        self._now -= 0 if self._uses[memory] else size


@dataclass(eq=False)
class _Kept:
    """What a graph keeps of a tensor."""

    packed: Any


def _memory(tensor: Tensor) -> StorageWeakRef:
    """Where a tensor's numbers lie; of a sharded one those of this rank's rows."""
    return StorageWeakRef(own_part(tensor.detach()).untyped_storage())  # type: ignore[no-untyped-call]


def point_seconds(problem: Problem) -> float:
    """Seconds of a point on a line: weights are written, and each gradient is held against that of the base."""
    base, tensors = problem.base.gradients, problem.receiving

    def compare(tensor: TrainableTensor, gradient: Tensor) -> None:
        distance(gradient, base[tensor.name])

    with problem.displaced(tensors) as origin, problem.steady():

        def visit() -> None:
            for tensor in tensors:
                torch.add(origin[tensor.name], base[tensor.name], alpha=0.0, out=tensor.parameter.data)
            problem.visit_gradient(compare)

        return min(timed(problem, visit) for _ in range(2))


def _ignore(*_: object) -> None:
    """Keeps nothing."""


def timed(problem: Problem, run: Callable[[], object]) -> float:
    """Runs it and gives the seconds until it is done, also on an accelerator."""
    started = time.perf_counter()
    run()
    if problem.device.type == "cuda":
        torch.cuda.synchronize(problem.device)
    return time.perf_counter() - started
