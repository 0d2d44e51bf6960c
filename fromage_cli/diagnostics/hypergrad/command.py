"""`fromage-diag hypergrad`."""

from dataclasses import replace

from fromage_cli.diagnostics.hypergrad.options import HypergradOptions
from fromage_cli.errors import UsageError
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
    diagnostic,
)
from fromage_cli.terminal.pictures import check_plot, with_plot
from fromage_cli.terminal.progress import Work, progress

SMOOTHING_ASSUMED = "loss: label smoothing is taken as 0. If training has some, give --label-smoothing."
"""What is said where nothing tells of label smoothing: a wrong guess changes the loss of every step."""


@diagnostic(tables=("hyperparameters", "answers", "summary"), estimate=True, ranks=True)
def command(
    ckpt: CheckpointArgument = None,
    *,
    asked: HypergradOptions,
    optimizer: OptimizerOptions,
    model: ModelOptions,
    batch: BatchOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Which way should weight decay, dropout and label smoothing move?"""
    optimizer.check()
    asked.check()
    check_plot(asked.plot, output.force, (output.output, ckpt, batch.batch, asked.val_batch))
    ahead = asked.kind in (None, "unroll")
    intake = open_problem(
        ckpt, model, batch, run, spare=asked.horizon if ahead else 0, in_loss=asked.scalars
    ).as_trained()

    from fromage_cli.diagnostics.hypergrad.answers import Request
    from fromage_cli.diagnostics.hypergrad.cost import estimate, expected_work
    from fromage_cli.diagnostics.hypergrad.findings import judge
    from fromage_cli.diagnostics.hypergrad.measure import measure, notes_of
    from fromage_cli.diagnostics.hypergrad.plot import draw
    from fromage_cli.diagnostics.hypergrad.render import TOLD, advise, answers_table, header, headline, render
    from fromage_cli.diagnostics.hypergrad.validation_rows import validation
    from fromage_cli.probes.cost import gradients
    from fromage_cli.probes.hypergradients.hyperparameters import drop_everywhere
    from fromage_cli.problem.losses.hyperparameters import LABEL_SMOOTHING
    from fromage_cli.problem.losses.supervised_losses import CrossEntropy

    problem = intake.problem
    if asked.dropout is not None and not drop_everywhere(problem.model, asked.dropout):
        raise UsageError(
            "--dropout: nothing in this network drops.", "Leave it out, or build the network with dropout."
        )
    rule, saved = intake.optimizer(optimizer), intake.checkpoint
    state = saved.optimizer if saved is not None else None
    assert asked.val_batch is not None  # checked
    rows = validation(
        problem, asked.val_batch, asked.val_loss, sequence_length=batch.seq_len, sequences=batch.sequences
    )
    training = replace(problem, mode="train" if problem.mode == "auto" else problem.mode)
    in_loss = dict(asked.scalars)
    if isinstance(problem.loss, CrossEntropy) or asked.label_smoothing is not None:
        in_loss[LABEL_SMOOTHING] = asked.label_smoothing or 0.0
    assumed = (SMOOTHING_ASSUMED,) if LABEL_SMOOTHING in in_loss and asked.label_smoothing is None else ()
    known = rule.rule is not None and rule.learning_rate is not None
    if asked.kind in ("unroll", "source") and not known:
        raise UsageError(
            f"--method {asked.method} takes training steps, and the optimizer or its learning rate is not known.",
            "Name them with --optimizer and --lr, or take --method gauss-newton.",
        )
    steps = asked.horizon if ahead and known else 0
    request = Request(
        steps,
        optimizer.train_batch_size or intake.declared.train_batch_size,
        in_loss,
        settled="gauss-newton" if ahead else asked.kind or "gauss-newton",
        horizon=asked.horizon if asked.kind == "source" else None,
        dropout_by_module=asked.dropout_by_module,
        damping=None if asked.damping_factor == "auto" else asked.damping_factor,
    )
    if run.estimate:
        return intake.complete(estimate_answer(estimate(training, rows, rule, state, request)))
    evaluations = problem.evaluations
    work = Work(lambda: gradients(evaluations), lambda: evaluations.doing)
    with progress("measuring", expected_work(training, rule, state, request), work) as advance:
        result, error = found_of(measure(training, rows, rule, state, request=request, advance=advance))
    answer = Answer(
        result=result,
        page=lambda style: render(result, style),
        tables={
            "hyperparameters": lambda: records(result.hyperparameters),
            "answers": lambda: answers_table(result),
            "summary": lambda: headline(result),
        },
        findings=judge(result),
        header=header(result),
        advice=advise(result),
        told=TOLD,
        notes=(*assumed, *notes_of(training, rule, state, request)),
        details=(*rule.notes, *rule.common_notes),
        settings={"mode": training.mode, **rule.flags},
        error=error,
    )
    answer = replace(intake, problem=training).complete(answer)
    return with_plot(answer, lambda *how: draw(result, *how), asked.plot, output.force)
