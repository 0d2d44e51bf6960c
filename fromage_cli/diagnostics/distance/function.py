"""The function part of a distance: two forward passes, and Theorem 1's bound where it holds."""

import math
from collections.abc import Sequence
from dataclasses import replace

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.diagnostics.distance.result import Bound, DistanceResult, LayerDistance
from fromage_cli.missing import Missing, Why, known
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
    zero = Missing(Why.ZERO_OR_NOT_FINITE, "the first network's output is zero")
    trainable = trainable_tensors(problem.model)
    stored = stored_names(problem.model, first, trainable)
    chain = theorem_chain(problem.model, dropout=problem.mode == "train")
    bound = (
        (Missing(Why.NO_FORMULA, chain),) * 2
        if isinstance(chain, str)
        else _bound([stored[name] for name in chain.weights], chain, result.layers)
    )
    kinds = {stored[tensor.name]: tensor.kind for tensor in trainable}
    filled = replace(
        result,
        function_distance=zero if found.whole is None else found.whole,
        largest_function_distance=zero if found.largest is None else found.largest,
        log10_bound=bound[0],
        bound=bound[1],
        layers=tuple(replace(layer, kind=kinds.get(layer.name)) for layer in result.layers),
    )
    return filled, found.notes


def _bound(
    names: Sequence[str], chain: Chain, layers: Sequence[LayerDistance]
) -> tuple[float | Missing, Bound | Missing]:
    """log10 of the bound and what it was computed from; `names`: of its matrices."""

    def none(code: Why, words: str) -> tuple[Missing, Missing]:
        return Missing(code, words), Missing(code, words)

    by_name = {layer.name: layer for layer in layers}
    unmeasured = [name for name in names if name not in by_name]
    if unmeasured:
        return none(Why.RESTS_ON_MISSING, f"not every matrix was measured: {', '.join(unmeasured)}")
    found = [by_name[name] for name in names]
    steps = [step for layer in found if (step := known(layer.relative_distance)) is not None]
    if len(steps) < len(names):
        without = next(layer.name for layer in found if isinstance(layer.relative_distance, Missing))
        return none(Why.RESTS_ON_MISSING, f"{without} is zero or not finite")
    if not any(steps):
        return none(Why.NOT_DEFINED, "no matrix has moved")
    conditions = []
    for layer in found:
        numbers = layer.condition_number
        for which, value in (("", numbers.first), ("", numbers.second), ("the difference of ", numbers.difference)):
            number = known(value)
            if number is None and (which == "" or layer.relative_distance):
                return none(Why.RESTS_ON_MISSING, f"the condition number of {which}{layer.name} was not measured")
            if number is not None and not math.isfinite(number):
                return none(
                    Why.RANK_DEFICIENT, f"{which}{layer.name} is rank-deficient: its condition number has no bound"
                )
            conditions.append(number or 1.0)
    kappa = max(conditions)
    return log10_function_bound(steps, kappa, chain.alpha, chain.beta), Bound(
        kappa, chain.alpha, chain.beta, len(steps)
    )
