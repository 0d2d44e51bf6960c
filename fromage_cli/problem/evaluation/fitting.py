"""Chunks of as many rows as fit in memory, found before anything is measured."""

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from fromage_cli.counting import counted
from fromage_cli.errors import OutOfMemory, words_of
from fromage_cli.problem.evaluation.refusals import require_faithful_split
from fromage_cli.problem.user_code.named_code import one_row_does_not_fit, out_of_memory

if TYPE_CHECKING:
    from fromage_cli.problem.evaluation.problem import Problem

Found = TypeVar("Found")


def fitted(problem: "Problem", evaluate: Callable[[], Found]) -> Found:
    """What an evaluation of a problem gives; where memory runs out, it is made again in chunks of half as many rows.

    Only what hands nothing over before it is done may be made again: the first loss, the base gradient and a trial
    product. A visitor may already have seen gradients when memory runs out. So the chunks are found with these, and
    memory that runs out later ends the command. Several ranks fail together, and so they halve together. Raises
    OutOfMemory where one row does not fit, or where the batch cannot be split.
    """
    steady, halved = problem.at_first is not None, False
    while True:
        lacking = None
        try:
            if steady and problem.at_first is None:
                problem.require_steadiness()
            found = evaluate()
        except Exception as error:
            if not out_of_memory(error):
                raise
            lacking = OutOfMemory(words_of(error))  # the error itself would keep the tensors of the pass
        if lacking is None:
            break
        _require_divisible(problem, lacking)
        gc.collect()
        if problem.device.type == "cuda":
            torch.cuda.empty_cache()
        problem.halve_chunks()
        halved, rows = True, counted(problem.largest_chunk(), "row")
        problem.fitting = (f"The batch did not fit in memory, so it is evaluated in chunks of {rows}.",)
    if halved:
        require_faithful_split(problem)
    return found


def _require_divisible(problem: "Problem", lacking: OutOfMemory) -> None:
    if problem.uses_batch_statistics:
        raise OutOfMemory(
            "The batch does not fit in memory. BatchNorm in training mode takes its statistics from all rows, so the "
            "batch cannot be split.",
            "Use a smaller batch, or give --mode eval.",
            [lacking.message],
        )
    if problem.largest_chunk() == 1:
        raise one_row_does_not_fit(lacking)
