"""What the model of a run's last checkpoint tells of its layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fromage_cli.diagnostics.norms.measure import LayerTest
from fromage_cli.errors import ResourceError
from fromage_cli.probes.structure.invariance import measure_invariance
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor


@dataclass(frozen=True)
class ModelTest:
    """The layers' tests by their names in the checkpoint, and the limit that cut them short, if one did."""

    layers: dict[str, LayerTest]
    stopped: ResourceError | None


def examine_layers(
    problem: Problem, layers: Mapping[str, TrainableTensor], advance: Callable[[], None] = lambda: None
) -> ModelTest:
    """Tests the model's layers, given by their names in the checkpoint."""
    found = measure_invariance(problem, {layer.name for layer in layers.values()}, advance)
    tested = {name: LayerTest(layer.kind) for name, layer in layers.items()}
    for name, layer in layers.items():
        one = found.layers.get(layer.name)
        if one is not None:
            tested[name] = LayerTest(layer.kind, one.invariance, one.dead_bias)
    return ModelTest(tested, found.stopped)
