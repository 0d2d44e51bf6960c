"""What the model of a run's last checkpoint tells of its layers."""

from collections.abc import Callable, Mapping

from fromage_cli.diagnostics.norms.measure import LayerTest
from fromage_cli.missing import LIMIT_REACHED, Interrupted, found_of
from fromage_cli.probes.structure.invariance import measure_invariance
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.scale_invariance import untested


def examine_layers(
    problem: Problem, layers: Mapping[str, TrainableTensor], advance: Callable[[], None] = lambda: None
) -> dict[str, LayerTest] | Interrupted[dict[str, LayerTest]]:
    """Tests the model's layers, given by their names in the checkpoint."""
    found, limit = found_of(measure_invariance(problem, {layer.name for layer in layers.values()}, advance))
    tested = {name: LayerTest(layer.kind, untested(LIMIT_REACHED)) for name, layer in layers.items()}
    for name, layer in layers.items():
        one = found.get(layer.name)
        if one is not None:
            tested[name] = LayerTest(layer.kind, one.invariance, one.dead_bias)
    return tested if limit is None else Interrupted(tested, limit)
