"""A loss of torch, which takes outputs and targets, as a function of the network and the batch."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fromage_cli.errors import UsageError
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.data.pytrees import named_tensors
from fromage_cli.problem.losses.call import inputs_and_targets
from fromage_cli.problem.losses.supervised_losses import prediction


class OfOutputs:
    """A loss of outputs and targets as a function of the network and the batch."""

    def __init__(self, criterion: Callable[..., Any]) -> None:
        self.criterion = criterion

    def __call__(self, network: nn.Module, data: Any) -> Any:
        """The loss of the network's outputs; raises UsageError where the batch has no target."""
        sizes = [tensor.shape[0] for _, tensor in named_tensors(data)]  # no plain number: a graph is made of it
        positional, named, target = inputs_and_targets(network, Batch(data, sizes[0], "the batch"))
        if not isinstance(target, Tensor):
            raise UsageError(
                "The batch has no target that the loss could take.", "Name it y, or give a function(model, batch)."
            )
        return self.criterion(prediction(network(*positional, **named)), target)
