"""What the model of a run's last checkpoint tells of its layers."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.diagnostics.norms.measure import LayerTest
from fromage_cli.errors import ResourceError
from fromage_cli.probes.structure.invariance import measure_invariance
from fromage_cli.problem.problem import Problem
from fromage_cli.problem.weights import stored_names


@dataclass(frozen=True)
class ModelTest:
    """The layers' tests by their names in the checkpoint, and the limit that cut them short, if one did."""

    layers: dict[str, LayerTest]
    stopped: ResourceError | None


def examine_layers(
    problem: Problem, checkpoint: Checkpoint, names: Collection[str], advance: Callable[[], None] = lambda: None
) -> ModelTest:
    """Tests the named layers of the checkpoint that the model trains; those it does not train are not in the answer."""
    stored = stored_names(problem.model, checkpoint, problem.layers)
    layers = {layer.name: layer for layer in problem.layers if stored[layer.name] in names}
    found = measure_invariance(problem, layers, advance)
    tested = {stored[name]: LayerTest(layer.kind) for name, layer in layers.items()}
    for name, one in found.layers.items():
        tested[stored[name]] = LayerTest(layers[name].kind, one.invariance, one.dead_bias)
    return ModelTest(tested, found.stopped)
