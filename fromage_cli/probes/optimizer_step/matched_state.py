"""The state of an optimizer, where it serves the rule that is asked for."""

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.optimizers.settings import Optimizer


def state_of(optimizer: Optimizer, state: OptimizerState | None) -> OptimizerState | None:
    """The state where it holds what this optimizer remembers."""
    return state.serving(optimizer.name) if state is not None else None
