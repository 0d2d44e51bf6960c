"""The displacement between a problem's weights and another checkpoint's."""

from torch import Tensor

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.weights import other_weights


def displacement_to(problem: Problem, other: Checkpoint) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Takes W' - W of every trainable tensor, by name, and says what the user should know of the other checkpoint.

    The other weights are loaded as the first were, subtracted, and everything is put back bit for bit. Never more than
    one copy of the weights is held beside them: each difference takes the place of what was kept.
    Raises MismatchError and NumericalError as loading weights does.
    """
    moved: dict[str, Tensor] = {}
    with other_weights(problem.model, other) as (own, notes):
        for tensor in problem.trainable:
            origin = own[tensor.name]
            moved[tensor.name] = tensor.parameter.detach() - origin
            tensor.parameter.data.copy_(origin)
            del own[tensor.name], origin
    return moved, notes
