"""Problem holds a model, a loss and a batch, and evaluates what every diagnostic asks of them: loss and gradient."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from fromage_cli import ranks
from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.conditions.draws import SinglePrecisionDraws
from fromage_cli.problem.conditions.evaluation import Conditions, Mode
from fromage_cli.problem.conditions.failing_together import failing_together
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.backward_pass import BackwardPass, Hooks, Visitor, require_count
from fromage_cli.problem.evaluation.fitting import fitted
from fromage_cli.problem.evaluation.refusals import (
    SAME,
    is_same_loss,
    require_faithful_split,
    require_gradient,
    require_same_loss,
)
from fromage_cli.problem.losses.loss_terms import LossTerms, weighed
from fromage_cli.problem.losses.losses import Loss
from fromage_cli.problem.losses.summed_loss import users_function
from fromage_cli.problem.networks.layers import TrainableTensor, frozen_names, trainable_tensors, unwrapped
from fromage_cli.ranks import Ranks

LOSS_ULPS = 8.0
"""Rounding errors of the loss up to which two draws count as the same."""
BFLOAT16 = torch.finfo(torch.bfloat16).eps
"""Relative gap up to which a loss in bfloat16 equals that of compiled passes, which round less often."""
SMALL = 1 << 18
"""Entries of all trainable tensors up to which their gradients may be held together: a megabyte in float32."""


@dataclass
class Evaluations:
    """How much was computed, in full-batch equivalents."""

    gradients: float = 0.0
    forwards: float = 0.0
    hessian_vector_products: float = 0.0
    doing: str = ""
    """What they are for, in a few words, for the person who waits."""

    def add(self, part: "Evaluations", share: float) -> None:
        """Counts what was computed on a part of the rows; `share`: of all of them."""
        self.gradients += share * part.gradients
        self.forwards += share * part.forwards
        self.hessian_vector_products += share * part.hessian_vector_products


@dataclass(frozen=True)
class Base:
    """Loss and gradient at the weights of the checkpoint."""

    loss: float
    gradients: dict[str, Tensor]
    """By tensor name, in model order; tensors that receive none are left out."""


@dataclass
class Problem:
    """A scalar loss as a function of named tensors, evaluated under the same conditions every time."""

    model: nn.Module
    loss: Loss
    batch: Batch
    mode: Mode = "auto"
    seed: int = 0
    further: tuple[Batch, ...] = ()
    """Batches beside the first: the loss is that of all rows, each batch evaluated on its own."""
    spare: tuple[Batch, ...] = ()
    """More of the same kind, which only training steps use; they may lie on another device until then."""
    micro_batch: int | None = None
    """Rows per chunk; None evaluates the whole batch at once."""
    saved: Callable[[TrainableTensor], Tensor] | None = None
    """Reads a tensor's weights again, so that no copy need be kept while they are displaced."""
    autocast: bool = False
    """Run the passes in bfloat16; weights and reductions stay in their own precision."""
    compiled: bool = False
    """Let torch compile the passes of gradients, if the network is to be compiled; not in mode `train`."""
    budget: Budget = field(default_factory=Budget)
    evaluations: Evaluations = field(default_factory=Evaluations)
    ranks: Ranks = field(default_factory=ranks.current)
    """The processes among which the rows are split; every number is that of all rows, on each of them."""
    fitting: tuple[str, ...] = ()
    """Sentences that say how the batch was split because it did not fit in memory."""

    def __post_init__(self) -> None:
        self.trainable = trainable_tensors(unwrapped(self.model))
        self.frozen = frozen_names(unwrapped(self.model))
        self.conditions = Conditions(self.model, users_function(self.loss))
        self.deferred: set[str] = set()
        self._parameters = list(self.model.parameters())
        self._hooks: Hooks | None = None
        self.at_first: float | None = None
        """The loss when it was first evaluated by `require_steadiness`."""
        self.noisy: bool | None = None
        """Whether the loss is one draw of many; None where no random numbers are drawn, or before the base is known."""
        self.draws_apart = False
        """Whether parts of the rows were evaluated with other random numbers than all rows."""
        self.held: Callable[[], AbstractContextManager[Any]] | None = None
        """What every evaluation is made within, so that rows draw what they drew elsewhere."""
        if not self.trainable:
            raise MismatchError(
                f"The model has no trainable tensor ({len(self.frozen)} frozen).",
                "Let the factory set requires_grad=True on the tensors that training moves.",
            )
        in_chunks = self.micro_batch is not None and self.micro_batch < max(batch.size for batch in self.batches)
        if in_chunks or self.ranks.several:
            require_faithful_split(self)

    @cached_property
    def base(self) -> Base:
        """Loss and gradient at the current weights, computed once; a forward pass more where random numbers are drawn.

        Where memory runs out, chunks are halved until it fits. Raises NumericalError when loss or gradient is not
        finite and MismatchError when no tensor receives a gradient.
        """
        return fitted(self, self._base)

    def _base(self) -> Base:
        gradients: dict[str, Tensor] = {}
        arrivals: dict[str, int] = {}

        def count(tensor: TrainableTensor) -> None:
            arrivals[tensor.name] = arrivals.get(tensor.name, 0) + 1

        loss = self._backward(lambda tensor, gradient: gradients.__setitem__(tensor.name, gradient), on_arrival=count)
        self.deferred = {name for name, times in arrivals.items() if times > len(self.own_chunks())}
        require_gradient(loss, gradients)
        rounding = BFLOAT16 if self.autocast and self.compiled else SAME  # what is compiled rounds less often
        if self.at_first is not None and not is_same_loss(loss, self.at_first, rounding):  # it may see the graph
            self.conditions.differentiates, self.at_first = True, loss
            self.require_steadiness()
        if self.noisy is None and self.conditions.drew:  # it may draw what does not matter
            tolerance = LOSS_ULPS * torch.finfo(torch.bfloat16 if self.autocast else self.dtype).eps
            self.noisy = not math.isclose(self.drawn(1).value(), loss, rel_tol=tolerance)
        return Base(loss, {t.name: gradients[t.name] for t in self.trainable if t.name in gradients})

    @cached_property
    def receiving(self) -> list[TrainableTensor]:
        """The trainable tensors that receive a gradient, in model order."""
        return [tensor for tensor in self.trainable if tensor.name in self.base.gradients]

    @property
    def layers(self) -> list[TrainableTensor]:
        """The tensors that receive a gradient and have two or more dimensions, in model order."""
        return [tensor for tensor in self.receiving if tensor.is_layer]

    @property
    def unused(self) -> list[str]:
        """The names of trainable tensors that receive no gradient."""
        return [tensor.name for tensor in self.trainable if tensor.name not in self.base.gradients]

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether modules normalise by the statistics of the rows at hand: each row's loss depends on the others."""
        return self.mode != "eval" and bool(self.conditions.batch_norms)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.trainable[0].parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return self.trainable[0].parameter.dtype

    @property
    def batches(self) -> tuple[Batch, ...]:
        """All batches that the loss is taken over."""
        return (self.batch, *self.further)

    @property
    def rows(self) -> int:
        """How many rows there are in all batches."""
        return sum(batch.size for batch in self.batches)

    @property
    def draws_noise(self) -> bool:
        """Whether the loss is one draw of many: random numbers are drawn that change it."""
        _ = self.base
        return bool(self.noisy)

    def on(self, batch: Batch, *further: Batch) -> "Problem":
        """The same problem on other rows; it counts its evaluations for itself."""
        other = self.drawn(0)
        other.batch, other.further, other.evaluations = batch, further, Evaluations()
        return other

    def drawn(self, further: int) -> "Problem":
        """The same problem with another draw of what is random; their evaluations are counted together."""
        other = copy(self)
        other.seed += further
        other.at_first = None
        for remembered in ("base", "receiving"):
            other.__dict__.pop(remembered, None)
        return other

    def value(self) -> float:
        """The loss at the current weights, by forward passes alone; may be infinite or not a number."""
        self.budget.check()
        return self.conditions.without_graph(self._value)

    def require_steadiness(self) -> None:
        """Evaluates the loss, the first time twice, whatever limits are reached.

        Raises MismatchError where it is not what it was at first.
        """
        loss = self.conditions.without_graph(self._value)
        if self.at_first is None:
            self.at_first, loss = loss, self.conditions.without_graph(self._value)
        require_same_loss(self.at_first, loss)

    def _value(self) -> float:
        total = count = 0.0
        with failing_together(self.ranks):
            for chunk in self.own_chunks():
                with self._evaluated(chunk) as terms:
                    total += float(terms.total.detach())
                    count += terms.count
        total, count = self.ranks.sums([total, count])
        self.evaluations.forwards += 1
        return total / require_count(count)

    def visit_gradient(self, visit: Visitor) -> float:
        """The loss at the current weights; `visit` sees each tensor's gradient as it appears, then it is freed.

        No gradient outlives its visit unless the visitor keeps it. The memory above the weights is that of one tensor;
        within `steady` a small network's gradients are all there until the pass is done.
        """
        return self._backward(visit)

    def visit_gradient_of(self, scalar: Callable[[Tensor], Tensor], visit: Visitor) -> None:
        """Visits the gradient of a scalar made from the loss, as `visit_gradient` does that of the loss.

        `scalar` must be linear in the loss, so that chunks can be added. Counts as no gradient.
        """
        self._backward(visit, scalar=scalar)
        self.evaluations.gradients -= 1

    @contextmanager
    def evaluation(self, batch: Batch) -> Iterator[None]:
        """The conditions of every evaluation of these rows."""
        narrow = torch.autocast(self.device.type, dtype=torch.bfloat16) if self.autocast else nullcontext()
        seed, kept = batch.seed(self.seed), self._hooks is not None
        unlike = self.dtype is torch.float64 and self.conditions.drew is not False
        single = SinglePrecisionDraws() if unlike else nullcontext()
        held = self.held() if self.held is not None else nullcontext()
        with self.conditions.comparable(self.mode, seed, generators_kept=kept), narrow, single, held:
            yield

    @contextmanager
    def _evaluated(self, chunk: Batch, compiled: bool = False) -> Iterator[LossTerms]:
        """The loss of a chunk, with the conditions of its evaluation still in force."""
        with self.evaluation(chunk), torch.compiler.set_stance("default") if compiled else nullcontext():
            yield weighed(self.loss(self.model, chunk), chunk)

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Many evaluations: modes and hooks are set up once and taken back once, as are the generators.

        It changes no number; it saves what an evaluation of a small network costs beside its passes. So small a one has
        no hooks either: its gradients are handed over when a pass is done.
        """
        if self._hooks is not None:
            yield
            return
        small = sum(tensor.parameter.numel() for tensor in self.trainable) <= SMALL
        hooks = Hooks(() if small else self.trainable)
        try:
            with self.conditions.steady(self.mode):
                self._hooks = hooks
                yield
        finally:
            self._hooks = None
            hooks.remove()

    @contextmanager
    def displaced(self, tensors: Sequence[TrainableTensor]) -> Iterator[Mapping[str, Tensor]]:
        """The tensors' own weights, by name; they are put back bit for bit however the block ends.

        They are copies, or read from the checkpoint whenever they are asked for.
        """
        origin: Mapping[str, Tensor]
        if self.saved is not None:
            origin = _Saved({tensor.name: tensor for tensor in tensors}, self.saved)
        else:
            origin = {tensor.name: tensor.parameter.detach().clone() for tensor in tensors}
        try:
            yield origin
        finally:
            for tensor in tensors:
                tensor.parameter.data.copy_(origin[tensor.name])

    @contextmanager
    def base_gradients_released(self) -> Iterator[None]:
        """Frees the base gradients, wherever they are held; asked for after the block, they cost another gradient.

        The loss stays known, and which tensors receive a gradient.
        """
        _ = self.receiving
        self.base.gradients.clear()
        try:
            yield
        finally:
            del self.__dict__["base"]

    def leave_gradients(self, scalar: Tensor) -> None:
        """Leaves the derivative of a scalar in `.grad`, where no visitor takes it.

        The whole graph is run, so that an operation in it that is differentiable only once says so.
        """
        if self._hooks is not None:
            self._hooks.arrived = lambda _: None
        scalar.backward()  # type: ignore[no-untyped-call]

    def drop_gradients(self) -> None:
        """Leaves no gradient on the model for the next backward pass to add to."""
        for parameter in self._parameters:
            parameter.grad = None

    def chunks(self) -> list[Batch]:
        """What is evaluated at once: the batches, split where micro-batches are asked for."""
        return self._split(self.batches)

    def own_chunks(self) -> list[Batch]:
        """Those of this rank's rows, which may be none; what is summed over them is summed over ranks as well."""
        if not self.ranks.several:
            return self.chunks()
        parts = [(batch, *self.ranks.part(batch.size)) for batch in self.batches]
        own = self._split([batch.rows(begin, end) for batch, begin, end in parts if begin < end])
        if not self.ranks.sharded:
            return own
        most = sum(math.ceil(math.ceil(b.size / self.ranks.count) / (self.micro_batch or b.size)) for b in self.batches)
        stands_in = own[-1] if own else self.batch.rows(0, 1)
        return own + [replace(stands_in, weight=0.0)] * (most - len(own))

    def largest_chunk(self) -> int:
        """Rows that any rank evaluates at once, at most."""
        most = max(-(-batch.size // self.ranks.count) for batch in self.batches)
        return min(self.micro_batch or most, most)

    def halve_chunks(self) -> None:
        """Splits the rows into chunks of half as many, and forgets what was evaluated in larger ones."""
        self.micro_batch = -(-self.largest_chunk() // 2)
        self.at_first = self.noisy = None
        for remembered in ("base", "receiving"):
            self.__dict__.pop(remembered, None)

    def _split(self, batches: Sequence[Batch]) -> list[Batch]:
        return [
            batch.rows(start, start + size) if size < batch.size else batch
            for batch in batches
            for size in [self.micro_batch or batch.size]
            for start in range(0, batch.size, size)
        ]

    def _backward(
        self,
        visit: Visitor,
        on_arrival: Callable[[TrainableTensor], None] | None = None,
        scalar: Callable[[Tensor], Tensor] | None = None,
    ) -> float:
        self.budget.check()
        compiled = self.compiled and self.mode != "train" and scalar is None
        hooks = self._hooks
        if hooks is None or (on_arrival is not None and not hooks.watching):
            hooks = Hooks(self.trainable)
        try:
            self.drop_gradients()
            chunks, tensors = self.own_chunks(), self.trainable
            evaluate = partial(self._evaluated, compiled=compiled)
            itself: Callable[[Tensor], Tensor] = lambda loss: loss  # noqa: E731
            taken = BackwardPass(chunks, evaluate, tensors, self.deferred, visit, scalar or itself, self.ranks)
            hooks.arrived = on_arrival or taken.arrived
            loss = taken.run()
        finally:
            self.drop_gradients()
            if hooks is not self._hooks:
                hooks.remove()
        self.evaluations.gradients += 1
        return loss


class _Saved(Mapping[str, Tensor]):
    """Weights that are read when they are asked for."""

    def __init__(self, tensors: dict[str, TrainableTensor], read: Callable[[TrainableTensor], Tensor]) -> None:
        self.tensors, self.read = tensors, read

    def __getitem__(self, name: str) -> Tensor:
        return self.read(self.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)
