"""`fromage-diag suggest-lr`."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fromage_cli.errors import FromageError, NumericalError, ResourceError, UsageError
from fromage_cli.intake import open_problem
from fromage_cli.missing import Missing, found_of
from fromage_cli.optimizers.rule import RULES
from fromage_cli.terminal.answer import Answer, estimate_answer, records
from fromage_cli.terminal.optimizer_options import OptimizerOptions
from fromage_cli.terminal.options import (
    BatchOptions,
    CheckpointArgument,
    ModelOptions,
    OutputOptions,
    RunOptions,
    TensorOptions,
    diagnostic,
)
from fromage_cli.terminal.progress import progress

if TYPE_CHECKING:
    from fromage_cli.diagnostics.suggest_lr.result import SuggestedRates
    from fromage_cli.optimizers.settings import Optimizer

TRAINING_BATCHES = 15
"""Taken from an iterator beside the diagnostic batch, for short runs: a fifth of them for the losses."""
UNRELIABLE = 10
"""Exit code of a value that is printed but not reliable."""
Asked = Literal["recommended", "limit"]


@diagnostic(tables=("estimates", "layers", "groups", "points", "alternatives"), estimate=True)
def command(
    ckpt: CheckpointArgument = None,
    *,
    value: Annotated[
        Asked | None, typer.Option("--value", help="Print that learning rate alone; exit 10 where it is not reliable.")
    ] = None,
    probe: Annotated[
        Literal["auto", "init", "checkpoint", "none"],
        typer.Option("--probe", help="Short training runs: from a new initialisation, from the checkpoint, or none."),
    ] = "auto",
    verify: Annotated[
        int | None, typer.Option("--verify", metavar="N", min=1, help="Take N real steps at 0.3, 1 and 3 × the answer.")
    ] = None,
    sharpness: Annotated[
        bool, typer.Option("--sharpness", help="Add the optimizer's stability threshold, by up to 20 products.")
    ] = False,
    warm: Annotated[
        int, typer.Option("--warm", metavar="N", min=2, help="Minibatch gradients that stand in for missing state.")
    ] = 16,
    optimizer: OptimizerOptions,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: TensorOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Which learning rate is safe, by Lemma 2 and by measurement, for my optimizer?"""
    optimizer.check()
    if value is not None and (output.json or output.format != "auto" or output.table is not None):
        raise UsageError(
            "--value prints a number alone, in no other format.", "Leave out --value, or --json, --format and --table."
        )
    trains = verify is not None or (probe != "none" and value != "limit")
    intake = open_problem(ckpt, model, batch, run, spare=TRAINING_BATCHES if trains else 0)

    from fromage_cli.diagnostics.suggest_lr.cost import estimate
    from fromage_cli.diagnostics.suggest_lr.findings import judge
    from fromage_cli.diagnostics.suggest_lr.measure import measure
    from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request
    from fromage_cli.diagnostics.suggest_lr.render import render
    from fromage_cli.probes.lines.direction import moving_tensors

    state = intake.checkpoint.optimizer if intake.checkpoint is not None else None
    rule = intake.optimizer(optimizer)
    if rule.name is None:
        _refuse_without_optimizer(value, verify, sharpness, probe)
    request = Request(
        batch_size=optimizer.train_batch_size,
        chunks=warm,
        sharpness=sharpness,
        probe="none" if value == "limit" else probe,
        verify=verify or 0,
        fresh=intake.rebuilt,
    )
    if run.estimate:
        return intake.complete(estimate_answer(estimate(intake.problem, rule, request)))
    chosen = tensors.tensors or "all"
    moving, _ = moving_tensors(intake.problem, chosen, *tensors.globs)
    with progress("suggest-lr", total=_stages(rule, request.probe, sharpness, request.verify)) as advance:
        notes: list[str] = []
        result, error = found_of(
            measure(intake.problem, moving, rule, state, request=request, advance=advance, note=notes.append)
        )
    answer = Answer(
        result=result,
        page=lambda style: render(result, style),
        tables={
            "estimates": lambda: records(result.estimates),
            "layers": lambda: records(result.layers),
            "groups": lambda: records(result.optimizer.groups),
            "points": lambda: records(result.points),
            "alternatives": lambda: records(result.alternatives),
        },
        findings=judge(result),
        notes=tuple(notes),
        settings={"tensors": chosen, **rule.flags},
        error=error,
    )
    return intake.complete(answer if value is None else replace(answer, **_alone(value, result, error)))


def _refuse_without_optimizer(value: Asked | None, verify: int | None, sharpness: bool, probe: str) -> None:
    """Raises UsageError for what only one optimizer can answer, and not the tables of all of them."""
    asked = {
        "--value": value is not None,
        "--verify": verify is not None,
        "--sharpness": sharpness,
        f"--probe {probe}": probe in ("init", "checkpoint"),
    }
    flag = next((flag for flag, given in asked.items() if given), None)
    if flag is not None:
        raise UsageError(
            f"{flag} needs the optimizer, and no checkpoint tells which it is.",
            f"Name it with --optimizer; without {flag} the tables show all of them.",
        )


def _alone(value: Asked, result: "SuggestedRates", error: FromageError | None) -> dict[str, Any]:
    """What of an answer the value alone changes. Raises NumericalError, or the limit reached, where there is none."""
    asked = result.limit if value == "limit" else result.recommended
    if not isinstance(asked.learning_rate, Missing):
        return {"alone": f"{asked.learning_rate:.6g}", "code": 0 if asked.reliable else UNRELIABLE}
    if isinstance(error, ResourceError):
        raise error
    reason = result.recommended.reason if value == "recommended" else "no step is certain to descend, none seen to rise"
    raise NumericalError(f"There is no {value} learning rate: {reason}.", "Look at the whole answer, without --value.")


def _stages(rule: "Optimizer", probe: str, sharpness: bool, verify: int) -> int:
    """How often the bar moves, about."""
    measured = 1 + 2 + 6
    if rule.name is None:
        return measured + len(RULES)
    return measured + 2 + sharpness + (0 if probe == "none" else 6) + (3 if verify else 0)
