"""The function part of a distance: two forward passes, and Theorem 1's bound where it holds."""

import math
from collections.abc import Sequence
from dataclasses import replace

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.diagnostics.distance.result import Absent, Bound, DistanceResult, LayerDistance
from fromage_cli.probes.structure.chain import Chain, theorem_chain
from fromage_cli.probes.structure.function_distance import function_distance
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import trainable_tensors
from fromage_cli.problem.networks.weights import stored_names
from fromage_cli.theory.network_distance import log10_function_bound


def with_function(
    result: DistanceResult, problem: Problem, first: Checkpoint, second: Checkpoint
) -> tuple[DistanceResult, tuple[str, ...]]:
    """The result with the function part filled in, and what the user should know of the second weights.

    `problem` stands at the first checkpoint's weights. Raises as `function_distance` does.
    """
    found = function_distance(problem, second)
    absent = []
    if found.whole is None:
        zero = "the first network's output is zero"
        absent = [Absent(name, zero) for name in ("function_distance", "largest_function_distance")]
    trainable = trainable_tensors(problem.model)
    stored = stored_names(problem.model, first, trainable)
    chain = theorem_chain(problem.model, dropout=problem.mode == "train")
    bound = chain if isinstance(chain, str) else _bound([stored[name] for name in chain.weights], chain, result.layers)
    if isinstance(bound, str):
        absent.append(Absent("log10_bound", bound))
    kinds = {stored[tensor.name]: tensor.kind for tensor in trainable}
    filled = replace(
        result,
        function_distance=found.whole,
        largest_function_distance=found.largest,
        log10_bound=None if isinstance(bound, str) else bound[0],
        bound=None if isinstance(bound, str) else bound[1],
        layers=tuple(replace(layer, kind=kinds.get(layer.name)) for layer in result.layers),
        absent=(*result.absent, *absent),
    )
    return filled, found.notes


def _bound(names: Sequence[str], chain: Chain, layers: Sequence[LayerDistance]) -> tuple[float, Bound] | str:
    """log10 of the bound and what it was computed from, or the reason why there is none; `names`: of its matrices."""
    by_name = {layer.name: layer for layer in layers}
    measured = [by_name.get(name) for name in names]
    found = [layer for layer in measured if layer is not None]
    steps = [layer.relative_distance for layer in found if layer.relative_distance is not None]
    if len(found) < len(names):
        return f"not every matrix was measured: {', '.join(name for name in names if name not in by_name)}"
    if len(steps) < len(names):
        return f"{next(layer.name for layer in found if layer.relative_distance is None)} is zero or not finite"
    if not any(steps):
        return "no matrix has moved"
    conditions = []
    for layer in found:
        numbers = layer.condition_number
        for which, value in (("", numbers.first), ("", numbers.second), ("the difference of ", numbers.difference)):
            if value is None and (which == "" or layer.relative_distance):
                return f"the condition number of {which}{layer.name} was not measured"
            if value is not None and not math.isfinite(value):
                return f"{which}{layer.name} is rank-deficient: its condition number has no bound"
            conditions.append(value or 1.0)
    kappa = max(conditions)
    return log10_function_bound(steps, kappa, chain.alpha, chain.beta), Bound(
        kappa, chain.alpha, chain.beta, len(steps)
    )
