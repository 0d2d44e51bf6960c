"""Tests which layers a network does not depend on the scale of: by the gradient, by scaling them, and in which parts.

A layer is scaled by 2 and by 1/2. How far the outputs move is compared with what a random displacement of the layer's
own size does. So a layer that hardly matters is not mistaken for an invariant one. Where scaling alone moves them,
weights and bias are scaled together. Parts whose gradients are orthogonal to them are candidates, the finest first.
They pass if half of the parts may be doubled.
"""

import math
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fromage_cli.errors import ResourceError
from fromage_cli.missing import Interrupted, Missing, Why, known
from fromage_cli.probes.structure.invariant_parts import Partition, candidates, half_doubled, spread
from fromage_cli.probes.structure.layer_modules import bias_of, head_counts, output_scales
from fromage_cli.probes.structure.outputs import Outputs, Response
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.accumulation import inner_product, squared_norm
from fromage_cli.theory.scale_invariance import (
    EPS_LIMITED,
    INVARIANT,
    VERDICTS,
    Granularity,
    Invariance,
    Responses,
    may_be_epsilon,
    untested,
    verdict,
)

FORWARDS = 6.0
"""Forward passes that a layer costs on average."""
NO_INFLUENCE = 64.0
"""Rounding errors below which a random displacement has done nothing, so that nothing can be said."""
FAR_SMALLER = 0.1
"""Ratio of responses below which scaling the bias too is what makes a layer invariant."""
NO_EFFECT = 1e-3
"""A bias has no effect if a shift by the size of what it is added to gives less response."""
LITTLE_EFFECT = 1e-2
"""First-order effect of such a shift, relative to that of the weights, below which a bias is looked at."""
NOTHING_TO_TEST = Missing(Why.ZERO_OR_NOT_FINITE, "the weights or their gradient are zero or not finite")
INFLUENCE_UNSEEN = Missing(
    Why.HIDDEN_BY_ROUNDING, "even a random change of the layer moves the outputs by no more than rounding"
)


def gradients_of_tests(layers: int) -> float:
    """What the test of so many layers costs, about, in gradients of the whole batch: its own, and a third a forward."""
    return 1.0 + FORWARDS * layers / 3.0


@dataclass(frozen=True)
class LayerInvariance:
    """What was found of one layer."""

    invariance: Invariance
    dead_bias: bool | None
    """Whether the bias beside it has no effect; None without a bias, or where nothing could be said."""


def measure_invariance(
    problem: Problem, names: Collection[str] | None = None, advance: Callable[[], None] = lambda: None
) -> dict[str, LayerInvariance] | Interrupted[dict[str, LayerInvariance]]:
    """Tests every layer of the problem, or those named, by name; one gradient and about FORWARDS forward passes each.

    Weights are afterwards what they were, bit for bit. Raises what the first gradient raises.
    """
    problem.evaluations.doing = "testing which layers are scale-invariant"
    layers = [layer for layer in problem.layers if names is None or layer.name in names]
    found: dict[str, LayerInvariance] = {}
    try:
        outputs = Outputs(problem)
        scales = output_scales(problem, layers)
        for place, layer in enumerate(layers, 1):
            problem.evaluations.doing = f"testing which layers are scale-invariant, {place} of {len(layers)}"
            found[layer.name] = _Test(problem, outputs, layer, scales.get(layer.name)).run()
            advance()
    except ResourceError as limit:
        return Interrupted(found, limit)
    return found


@dataclass(frozen=True)
class _View:
    """Responses as those of the outputs or of the loss, over what a random displacement does."""

    on_loss: bool
    reference: Response

    def raw(self, response: Response) -> float:
        """The response itself."""
        return response.loss if self.on_loss else response.outputs

    def of(self, response: Response) -> float:
        """The response over that to the random displacement."""
        reference = min(self.raw(self.reference), 1.0)
        return self.raw(response) / reference if reference > 0.0 else math.inf


@dataclass
class _Test:
    """The test of one layer."""

    problem: Problem
    outputs: Outputs
    layer: TrainableTensor
    output_scale: float | None
    """Root mean square of what the layer's module returns."""
    bias: TrainableTensor | None = field(init=False)

    def __post_init__(self) -> None:
        self.bias = bias_of(self.problem, self.layer)
        self.gradients = self.problem.base.gradients

    def run(self) -> LayerInvariance:
        """Tests the weights alone, then with their bias where that matters."""
        weights = self.layer.parameter
        size = math.sqrt(squared_norm(weights) / weights.numel())
        if not 0.0 < size < math.inf or not bool(self.gradients[self.layer.name].any()):
            return LayerInvariance(untested(NOTHING_TO_TEST), None)
        rounding = NO_INFLUENCE * torch.finfo(self.problem.dtype).eps
        reference = self._response([self.layer], lambda weights: weights + size * self._noise(weights))
        if max(reference.outputs, reference.loss) <= rounding:
            return LayerInvariance(untested(INFLUENCE_UNSEEN), None)
        no_effect = self._bias_has_no_effect(reference)
        found = self._scaled([self.layer], reference)
        alone = known(found.response_double) or 0.0
        if self.bias is not None and not (no_effect and found.verdict != "none") and alone > rounding:
            together = self._scaled([self.layer, self.bias], reference)
            # a better verdict, or a far smaller response at the same one: invariance needs the bias
            rank, rank_alone = VERDICTS.index(together.verdict), VERDICTS.index(found.verdict)
            smaller = (known(together.response_double) or 0.0) < FAR_SMALLER * alone
            if rank < rank_alone or (rank == rank_alone and together.verdict != "none" and smaller):
                found = replace(together, granularity="joint")
        return LayerInvariance(found, no_effect)

    def _scaled(self, tensors: Sequence[TrainableTensor], reference: Response) -> Invariance:
        """The verdict on tensors that are scaled together, by the outputs, else by the loss alone."""
        elements = sum(tensor.parameter.numel() for tensor in tensors)
        product = sum(inner_product(self.gradients[tensor.name], tensor.parameter) for tensor in tensors)
        gradient = sum(squared_norm(self.gradients[tensor.name]) for tensor in tensors)
        weights = sum(squared_norm(tensor.parameter) for tensor in tensors)
        cosine = abs(product) / math.sqrt(gradient * weights)
        double = self._response(tensors, lambda weights: weights * 2.0)
        half = self._response(tensors, lambda weights: weights * 0.5)
        for view in (_View(False, reference), _View(True, reference)):
            found = Responses(view.of(double), view.of(half))
            if may_be_epsilon(found) and not view.on_loss:
                found = replace(found, quadruple=view.of(self._response(tensors, lambda weights: weights * 4.0)))
            said = verdict(found, cosine, elements)
            if said == "invariant" or (said != "none" and not view.on_loss):
                whole = Invariance(said, "tensor", cosine, view.raw(double), view.raw(half), 1)
                return self._with_parts(whole, tensors, found, view)
        return Invariance("none", None, cosine, double.outputs, half.outputs)

    def _with_parts(
        self, whole: Invariance, tensors: Sequence[TrainableTensor], responses: Responses, view: _View
    ) -> Invariance:
        """The same with the finest parts that may be scaled on their own."""
        limit = min(max(3 * responses.double, INVARIANT), EPS_LIMITED)

        def response_of_half(partition: Partition) -> float:
            factors = half_doubled(partition, self.problem.seed)
            change = self._response(tensors, lambda weights: weights * spread(factors, weights, partition.axis))
            return view.of(change)

        finest = next((p for p in candidates(tensors, self.gradients) if response_of_half(p) < limit), None)
        if finest is None:
            return whole
        granularity: Granularity = "group"
        if finest.parts == self.layer.parameter.shape[finest.axis]:
            granularity = "channel"
        elif finest.parts in head_counts(self.problem.model, self.layer.name):
            granularity = "head"
        return replace(whole, granularity=granularity, parts=finest.parts, axis=finest.axis, part_cosine=finest.cosine)

    def _bias_has_no_effect(self, reference: Response) -> bool | None:
        """Whether shifting the bias by the size of what it is added to changes nothing."""
        if self.bias is None:
            return None
        weights, bias = self.layer.parameter, self.bias.parameter
        scale = self.output_scale or math.sqrt(squared_norm(weights) / bias.numel())
        effect = squared_norm(self.gradients[self.bias.name]) * bias.numel() * scale**2
        if effect > LITTLE_EFFECT**2 * squared_norm(self.gradients[self.layer.name]) * squared_norm(weights):
            return False
        shifted = self._response([self.bias], lambda bias: bias + scale * self._noise(bias))
        return _View(False, reference).of(shifted) < NO_EFFECT

    def _noise(self, tensor: Tensor) -> Tensor:
        """Gaussian numbers from a seed of the layer's own: weights may have been drawn from the user's."""
        seed = zlib.crc32(f"{self.problem.seed} {self.layer.name}".encode())
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)

    def _response(self, tensors: Sequence[TrainableTensor], change: Callable[[Tensor], Tensor]) -> Response:
        """How far the network moves when the tensors are changed; they are put back."""
        with self.problem.displaced(tensors) as origin:
            for tensor in tensors:
                tensor.parameter.data.copy_(change(origin[tensor.name]))
            return self.outputs.response()
