"""`fromage-diag suggest-lr`."""

from dataclasses import replace

from fromage_cli.diagnostics.suggest_lr.options import RateOptions
from fromage_cli.intake import open_problem
from fromage_cli.missing import found_of
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

TRAINING_BATCHES = 15
"""Taken from an iterator beside the diagnostic batch, for short runs: a fifth of them for the losses."""


@diagnostic(tables=("estimates", "layers", "groups", "points", "alternatives"), estimate=True)
def command(
    ckpt: CheckpointArgument = None,
    *,
    asked: RateOptions,
    optimizer: OptimizerOptions,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: TensorOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Which learning rate is safe, by Lemma 2 and by measurement, for my optimizer?"""
    optimizer.check()
    asked.check(output)
    intake = open_problem(ckpt, model, batch, run, spare=TRAINING_BATCHES if asked.trains else 0)

    from fromage_cli.diagnostics.suggest_lr.cost import estimate, expected_stages
    from fromage_cli.diagnostics.suggest_lr.findings import judge
    from fromage_cli.diagnostics.suggest_lr.measure import measure
    from fromage_cli.diagnostics.suggest_lr.render import render
    from fromage_cli.probes.lines.direction import moving_tensors

    state = intake.checkpoint.optimizer if intake.checkpoint is not None else None
    rule = intake.optimizer(optimizer)
    if rule.name is None:
        asked.check_without_optimizer()
    request = asked.request(optimizer.train_batch_size, intake.rebuilt)
    if run.estimate:
        return intake.complete(estimate_answer(estimate(intake.problem, rule, request)))
    chosen = tensors.tensors or "all"
    moving, _ = moving_tensors(intake.problem, chosen, *tensors.globs)
    with progress("suggest-lr", total=expected_stages(rule, request)) as advance:
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
    return intake.complete(answer if asked.value is None else replace(answer, **asked.alone(result, error)))
