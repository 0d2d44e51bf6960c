"""The product of the Hessian with a vector as a whole, for comparison with a dense matrix."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.evaluation.streamed_hessian import visit_hessian_vector_product
from fromage_cli.problem.networks.layers import TrainableTensor


def hessian_vector_product(problem: Problem, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """H v over the named tensors; others are held fixed."""
    tensors = [tensor for tensor in problem.trainable if tensor.name in vector]
    product = {tensor.name: torch.zeros_like(tensor.parameter) for tensor in tensors}

    def keep(tensor: TrainableTensor, part: Tensor) -> None:
        if tensor.name in product:
            product[tensor.name] = part

    visit_hessian_vector_product(problem, tensors, lambda tensor, _: vector[tensor.name], keep)
    return product
