"""The validation rows and their loss, from what the user named."""

from dataclasses import replace
from typing import Any

from fromage_cli.errors import FromageError, ResourceError, UsageError
from fromage_cli.probes.hypergradients.validation import PARTS, Validation, validation_parts
from fromage_cli.problem.data.batches import load_batches
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.hyperparameters import default_of
from fromage_cli.problem.losses.losses import Loss, resolve_loss
from fromage_cli.problem.losses.reported_losses import FunctionLoss
from fromage_cli.problem.losses.summed_loss import SummedLoss


def validation(problem: Problem, spec: str, loss: str | None, **tokens: Any) -> Validation:
    """Validation rows for a problem, in evaluation mode; `tokens`: lengths for a file of tokens.

    Raises the errors of `load_batches` and `resolve_loss`, with the flag that they are about.
    """
    try:
        loaded = load_batches(spec, spare=PARTS - 1, seed=problem.seed, **tokens)
        batches = [batch.to(problem.device, problem.dtype) for batch in loaded]
        named = [resolve_loss(loss or "auto", problem.model, batch, mode="eval") for batch in batches if loss]
        own = named[0] if named else _without_regularisers(problem.loss)
        found = replace(problem, batch=batches[0], further=tuple(batches[1:]), spare=(), mode="eval", loss=own)
        found.value()
    except FromageError as error:
        if not any(flag in error.message for flag in ("--val-batch", "--val-loss")) and not isinstance(
            error, ResourceError
        ):
            error.message = f"--val-batch {spec}: {error.message.removeprefix('--batch: ')}"
        raise
    return Validation(found, validation_parts(batches))


def _without_regularisers(loss: Loss) -> Loss:
    """The training loss with every keyword of a user's function left at its default.

    Raises UsageError where a keyword has none.
    """
    inner = loss.loss if isinstance(loss, SummedLoss) else loss
    if not isinstance(inner, FunctionLoss):
        return inner
    for name in inner.hyperparameters:
        if default_of(inner, name) is None:
            raise UsageError(
                f"--hyper {name}: the validation loss leaves it out, and {inner.name} has no number as its default.",
                f"Write {name}=0.0 into the function's arguments, or name another loss with --val-loss.",
            )
    return replace(inner, hyperparameters={})
