"""What a model and a batch show of each layer: whether its scale matters, in which parts, how large gradients are."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fromage_cli.diagnostics.intrinsic_lr.result import Evidence, Inactive, LayerEvidence
from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.missing import Interrupted, Missing, Why, found_of
from fromage_cli.probes.optimizer_step.unit_gradients import Units, measure_unit_gradients, squares_of_units
from fromage_cli.probes.structure.invariance import measure_invariance
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.accumulation import squared_norm


def gather_evidence(
    problem: Problem,
    layers: Mapping[str, TrainableTensor],
    *,
    gradients: bool,
    batch_size: int | None,
    advance: Callable[[], None] = lambda: None,
) -> Evidence | Interrupted[Evidence]:
    """Tests the model's layers, given by their names in the checkpoint, for scale invariance; where the rule needs them
    it measures gradients too.

    Raises what the first gradient raises; a limit interrupts it, the rest untested or without gradients.
    """
    test, stopped = found_of(measure_invariance(problem, {layer.name for layer in layers.values()}, advance))
    units = {name: Units(tested.invariance.parts or 1, tested.invariance.axis or 0) for name, tested in test.items()}
    measured = None
    no_gradients = Missing(Why.NOT_DEFINED, "no formula for this optimizer uses gradients")
    if gradients and stopped is None:
        try:
            problem.evaluations.doing = "gradients of training batches"
            measured = measure_unit_gradients(problem, units, batch_size)
        except MismatchError as error:
            no_gradients = Missing(Why.NOT_EVALUATED, f"{error.message.rstrip('.')}. {error.hint}".rstrip("."))
        except ResourceError as limit:
            stopped = limit
    if stopped is not None:
        words = f"a limit was reached before gradients were taken. {stopped.message}".rstrip(".")
        no_gradients = Missing(Why.LIMIT_REACHED, words)
    found = {}
    for name, layer in layers.items():
        one = LayerEvidence(layer.kind, squares=no_gradients, squared_gradient=no_gradients)
        if layer.name in test:
            invariance = test[layer.name].invariance
            one = replace(one, verdict=invariance.verdict, granularity=invariance.granularity)
        if measured is not None:
            gradient, unused = measured.squares[layer.name], _unused(problem.base.gradients[layer.name])
            weight = layer.parameter.detach()
            sizes = squares_of_units(weight.masked_fill(unused, 0.0), units[layer.name]).tolist()
            scaled = tuple(size * square for size, square in zip(sizes, gradient, strict=True))
            one = replace(one, sizes=tuple(sizes), squares=scaled, squared_gradient=sum(gradient))
            if any_unused := int(unused.sum()):
                square = squared_norm(weight.masked_fill(~unused, 0.0))
                one = replace(one, inactive=Inactive(any_unused, square))
        found[name] = one
    evidence = Evidence(found, measured.batch_size if measured is not None else None)
    return evidence if stopped is None else Interrupted(evidence, stopped)


def _unused(gradient: Tensor) -> Tensor:
    """Where inputs are always zero: gradients vanish there for every output, and not everywhere. Of its shape, bool."""
    columns = (gradient == 0).all(dim=0, keepdim=True)
    return columns.expand_as(gradient) if not bool(columns.all()) else torch.zeros_like(gradient, dtype=torch.bool)
