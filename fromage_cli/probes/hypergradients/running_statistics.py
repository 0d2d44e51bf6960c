"""What normalisation over batches remembers for evaluation, as part of what a training step changes.

    b <- (1 - m) b + m s(w)

s is the mean or the unbiased variance of the rows, in every call of a step.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.instancenorm import _InstanceNorm

from fromage_cli.problem.conditions.replaced_calls import ReplacedCalls
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor

Buffers = dict[str, Tensor]
"""Running means, variances and counts, by the module's number and the buffer's name."""
NAMES = ("running_mean", "running_var", "num_batches_tracked")
KERNELS = (functional.batch_norm, functional.instance_norm)
"""What normalises by them in evaluation."""


class RunningStatistics:
    """The running statistics of one network's normalisation layers, during training steps that are computed apart."""

    def __init__(self, problem: Problem) -> None:
        norms = problem.conditions.batch_norms if problem.mode != "eval" else []
        self.modules: Sequence[Any] = [module for module in norms if module.running_mean is not None]

    def held(self) -> Buffers:
        """Copies of what they are now."""
        return {key: buffer.clone() for key, buffer in self._buffers()}

    def load(self, buffers: Mapping[str, Tensor]) -> None:
        """Puts values in their places."""
        with torch.no_grad():
            for key, buffer in self._buffers():
                if key in buffers:
                    buffer.copy_(buffers[key])

    @property
    def moving(self) -> Buffers:
        """The running means and variances, which evaluation depends on."""
        return {key: buffer for key, buffer in self._buffers() if not key.endswith(NAMES[-1])}

    @contextmanager
    def requiring_gradients(self) -> Iterator[Buffers]:
        """Leaves that stand in their places within the block, so that derivatives by them can be taken."""
        leaves = {key: buffer.detach().clone().requires_grad_() for key, buffer in self.moving.items()}
        before = self.moving
        try:
            self._replace(leaves)
            with ReplacedCalls({kernel: partial(_normalised, kernel) for kernel in KERNELS}):
                yield leaves
        finally:
            self._replace(before)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Copies stand in their places within the block, so that a graph made there outlives what is written later."""
        before = dict(self._buffers())
        try:
            self._replace(self.held())
            yield
        finally:
            self._replace(before)

    def _replace(self, others: Mapping[str, Tensor]) -> None:
        for key, value in others.items():
            number, _, name = key.partition(".")
            setattr(self.modules[int(number)], name, value)

    @contextmanager
    def updated(self) -> Iterator[Buffers]:
        """Notes what the layers make of them in the passes of a step, which an evaluation takes back afterwards."""
        found: Buffers = {}

        def note(number: int) -> Any:
            def hook(module: nn.Module, *_: Any) -> None:
                found.update({f"{number}.{name}": getattr(module, name).clone() for name in NAMES})

            return hook

        handles = [module.register_forward_hook(note(number)) for number, module in enumerate(self.modules)]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def pulled_back(self, adjoint: Mapping[str, Tensor]) -> Iterator["PulledBack"]:
        """Notes the rows that the layers normalise, to pull `adjoint` of the statistics back through a step."""
        found = PulledBack(adjoint)

        def note(number: int) -> Any:
            def hook(module: nn.Module, inputs: Sequence[Tensor], named: Mapping[str, Tensor], _: Any) -> None:
                (rows,) = (*inputs, *named.values())
                found.calls.append(_Call(number, _share(module), rows, isinstance(module, _InstanceNorm)))

            return hook

        handles = [
            module.register_forward_hook(note(number), with_kwargs=True) for number, module in enumerate(self.modules)
        ]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def of_rows(self, problem: Problem) -> Buffers:
        """What they would be with no memory: the mean over the batches of a problem, at the present weights."""
        total: Buffers = {}
        with self._forgetting(), torch.no_grad():
            for chunk in problem.chunks():
                with problem.evaluation(chunk), self.updated() as found:
                    problem.loss(problem.model, chunk)
                for key in self.moving:
                    value = found[key] * (chunk.size / problem.rows)
                    total[key] = total[key] + value if key in total else value
        problem.evaluations.forwards += 1
        return total

    def pull_back_of_rows(
        self, problem: Problem, tensors: Sequence[TrainableTensor], adjoint: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """The derivative of <adjoint, `of_rows`> by the weights, as tensors shaped like them."""
        weights = [tensor.parameter for tensor in tensors]
        total = [torch.zeros_like(weight) for weight in weights]
        with self._forgetting():
            for chunk in problem.chunks():
                share = chunk.size / problem.rows
                with problem.evaluation(chunk), self.pulled_back(adjoint) as passes:
                    problem.loss(problem.model, chunk)
                    slope = torch.stack(passes.terms()).sum() * share
                    parts = torch.autograd.grad(slope, weights, materialize_grads=True, allow_unused=True)
                total = [whole + part for whole, part in zip(total, parts, strict=True)]
        problem.evaluations.gradients += 1
        return total

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """Layers that remember nothing but the rows that they saw last."""
        before = [module.momentum for module in self.modules]
        try:
            for module in self.modules:
                module.momentum = 1.0
            yield
        finally:
            for module, momentum in zip(self.modules, before, strict=True):
                module.momentum = momentum

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        for number, module in enumerate(self.modules):
            for name in NAMES:
                if getattr(module, name) is not None:
                    yield f"{number}.{name}", getattr(module, name)


def _normalised(kernel: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Normalisation by running statistics as a formula, for torch's kernel has no derivative by them."""
    given: dict[str, Any] = inspect.signature(kernel).bind(*args, **kwargs).arguments
    if given["running_mean"] is None or given.get("training", given.get("use_input_stats")):
        return kernel(*args, **kwargs)
    normalised: list[Any] = [given.get(name) for name in ("input", "running_mean", "running_var", "weight", "bias")]
    return _by_formula(*normalised, eps=given["eps"])


def _by_formula(
    inputs: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""

    def channels(values: Tensor) -> Tensor:
        return values.view(1, -1, *[1] * (inputs.dim() - 2))

    found = (inputs - channels(mean)) * channels((variance + eps).rsqrt())
    found = found if weight is None else found * channels(weight)
    return found if bias is None else found + channels(bias)


@dataclass(frozen=True)
class _Call:
    """One call of a layer in a step."""

    number: int
    """The module's."""
    share: float
    """Its m."""
    inputs: Tensor
    """Rows × channels × everything else."""
    each_row: bool
    """Whether the statistics are those of each row, with their mean taken."""

    def term(self, mean: Tensor, variance: Tensor) -> Tensor:
        """A scalar with the derivatives of <mean, means> + <variance, unbiased variances>."""
        rows = self.inputs.detach().reshape(*self.inputs.shape[:2], -1)  # rows × channels × everything else
        over, many = ([2], rows.shape[0]) if self.each_row else ([0, 2], 1)
        count = rows.numel() / (rows.shape[1] * many)
        slope = (rows - rows.mean(over, keepdim=True)) * (variance * 2.0 / ((count - 1.0) * many))[:, None]
        slope += (mean / (count * many))[:, None]
        return (slope.view_as(self.inputs) * self.inputs).sum()


@dataclass
class PulledBack:
    """The adjoint of running statistics through the passes of one step."""

    adjoint: Mapping[str, Tensor]
    """After the step, by key; of means and variances alone."""
    calls: list[_Call] = field(default_factory=list)
    """In their order."""

    def terms(self) -> list[Tensor]:
        """Scalars whose gradient by the weights is what the statistics add to the adjoint of these."""
        found, kept = [], dict.fromkeys((call.number for call in self.calls), 1.0)
        for call in reversed(self.calls):
            keys = [f"{call.number}.{name}" for name in NAMES[:2]]
            if all(key in self.adjoint for key in keys):
                found.append(call.share * kept[call.number] * call.term(*(self.adjoint[key] for key in keys)))
            kept[call.number] *= 1.0 - call.share
        return found

    def before(self) -> Buffers:
        """The adjoint before the step."""
        kept: dict[str, float] = {}
        for call in self.calls:
            kept[str(call.number)] = kept.get(str(call.number), 1.0) * (1.0 - call.share)
        return {key: value * kept.get(key.partition(".")[0], 1.0) for key, value in self.adjoint.items()}


def _share(module: Any) -> float:
    """The m of a call: the layer's momentum, or one over its calls so far where it takes the mean of all."""
    if isinstance(module, _InstanceNorm):
        return module.momentum or 0.0
    return 1.0 / max(int(module.num_batches_tracked), 1) if module.momentum is None else float(module.momentum)
