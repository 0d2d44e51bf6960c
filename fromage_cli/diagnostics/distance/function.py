"""The function part of a distance: two forward passes, and Theorem 1's bound where it holds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.diagnostics.distance.result import Bound, DistanceResult, LayerDistance
from fromage_cli.errors import NumericalError, ResourceError
from fromage_cli.missing import Interrupted, Missing, Why, failed, known
from fromage_cli.probes.structure.chain import Chain, theorem_chain
from fromage_cli.probes.structure.function_distance import function_distance
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import trainable_tensors
from fromage_cli.problem.networks.weights import stored_names
from fromage_cli.theory.relative_trust import log10_function_bound


def with_function(
    result: DistanceResult, problem: Problem, first: Checkpoint, second: Checkpoint
) -> tuple[DistanceResult | Interrupted[DistanceResult], tuple[str, ...]]:
    """Fills in the function part of the result, and says what the user should know of the second weights.

    `problem` stands at the first checkpoint's weights. Raises MismatchError as `function_distance` does.
    """
    try:
        found = function_distance(problem, second)
    except (ResourceError, NumericalError) as error:
        why = failed(error)
        result = replace(result, function_distance=why, largest_function_distance=why, log10_bound=why, bound=why)
        return Interrupted(result, error), second.notes
    zero = Missing(Why.ZERO_OR_NOT_FINITE, "the first network's output is zero")
    trainable = trainable_tensors(problem.model)
    stored = stored_names(problem.model, first, trainable)
    chain = theorem_chain(problem.model, dropout=problem.mode == "train")
    bound = chain if isinstance(chain, Missing) else _bound(chain, stored, result.layers)
    kinds = {stored[tensor.name]: tensor.kind for tensor in trainable}
    filled = replace(
        result,
        function_distance=zero if found.whole is None else found.whole,
        largest_function_distance=zero if found.largest is None else found.largest,
        log10_bound=bound if isinstance(bound, Missing) else bound[0],
        bound=bound if isinstance(bound, Missing) else bound[1],
        layers=tuple(replace(layer, kind=kinds.get(layer.name)) for layer in result.layers),
    )
    return filled, found.notes


def _bound(chain: Chain, stored: Mapping[str, str], layers: Sequence[LayerDistance]) -> tuple[float, Bound] | Missing:
    """log10 of Theorem 1's bound and what it was computed from; `stored`: names in the checkpoint by the model's."""
    by_name = {layer.name: layer for layer in layers}
    names = [stored[name] for name in chain.weights]
    if unmeasured := [name for name in names if name not in by_name]:
        return Missing(Why.RESTS_ON_MISSING, f"not every matrix was measured: {', '.join(unmeasured)}")
    steps, conditions = [], []
    for layer in (by_name[name] for name in names):
        if isinstance(layer.relative_distance, Missing):
            return Missing(Why.RESTS_ON_MISSING, f"{layer.name} is zero or not finite")
        steps.append(layer.relative_distance)
    if not any(steps):
        return Missing(Why.NOTHING_MOVES, "no matrix has moved")
    for layer in (by_name[name] for name in names):
        numbers = layer.condition_number
        for which, value in (("", numbers.first), ("", numbers.second), ("the difference of ", numbers.difference)):
            number, name = known(value), f"{which}{layer.name}"
            if number is None and (which == "" or layer.relative_distance):
                return Missing(Why.RESTS_ON_MISSING, f"the condition number of {name} was not measured")
            if number is not None and not math.isfinite(number):
                return Missing(Why.RANK_DEFICIENT, f"{name} is rank-deficient: its condition number has no bound")
            conditions.append(number or 1.0)
    kappa = max(conditions)
    logarithm = log10_function_bound(steps, kappa, chain.alpha, chain.beta)
    return logarithm, Bound(kappa, chain.alpha, chain.beta, len(steps))
