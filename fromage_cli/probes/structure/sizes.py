"""The layers whose weights are larger or smaller than those of their siblings."""

import math
from collections.abc import Sequence

from fromage_cli.checkpoints.layers import is_lookup_table
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.accumulation import norm
from fromage_cli.theory.siblings import OutOfLine, odd_weights


def layers_out_of_line(tensors: Sequence[TrainableTensor]) -> tuple[OutOfLine, ...]:
    """Return the matrices among these tensors that differ from their siblings; lookup tables are left out."""
    matrices = [one for one in tensors if one.parameter.dim() > 1 and not is_lookup_table(one.name, one.kind)]
    return odd_weights(
        {one.name: (one.kind, tuple(one.parameter.shape)) for one in matrices},
        {one.name: norm(one.parameter.detach()) / math.sqrt(one.parameter.numel()) for one in matrices},
    )
