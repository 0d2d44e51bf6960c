"""`fromage-diag check`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fromage_cli.checkpoints.storage.sharing import reads_shared
from fromage_cli.counting import counted
from fromage_cli.diagnostics.check.forward_pass import FORWARD_PASS, answer_forward_pass
from fromage_cli.errors import FromageError, InputError, NotFiniteError, ResourceError
from fromage_cli.intake import checkpoint_record, declared_by, likely_problem, names_network, open_problem, short_place
from fromage_cli.intake.sharing import problems_shared
from fromage_cli.terminal.answer import Answer, estimate_answer, provenance_of_all
from fromage_cli.terminal.configuration import RULES_KEY
from fromage_cli.terminal.optimizer_options import TrainingOptions
from fromage_cli.terminal.options import (
    BatchOptions,
    HeldOutOptions,
    ModelOptions,
    NameOptions,
    OutputOptions,
    RunArgument,
    RunOptions,
    diagnostic,
)
from fromage_cli.terminal.session import current, typed

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint
    from fromage_cli.diagnostics.check.asking import Inputs
    from fromage_cli.diagnostics.check.measure import Examination

IN_NETWORK = ("breakdown", "suggest-lr", "sharpness")
"""Commands that need the network and a batch, the cheapest first."""
EXPLAIN_BUNDLE = "fromage-diag explain bundle"
"""What tells how to save the network with its weights."""


@diagnostic(tables=("findings", "numbers", "changes", "rules", "summary"), estimate=True, defaults={"fail_on": "fail"})
def command(
    ckpt: RunArgument,
    *,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="An earlier answer as JSON: only what is new or worse counts."),
    ] = None,
    optimizer: TrainingOptions,
    model: ModelOptions,
    batch: BatchOptions,
    held_out: HeldOutOptions,
    tensors: NameOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Is my run healthy: go on, look at this, or stop?

    Files alone already answer. With a network and a batch, a forward pass and more commands look too.
    """
    optimizer.check()

    from fromage_cli.checkpoints.runs.gathering import gather_series
    from fromage_cli.diagnostics.check.asking import Inputs
    from fromage_cli.diagnostics.check.baseline import read_baseline
    from fromage_cli.diagnostics.check.conclusion import conclude
    from fromage_cli.diagnostics.check.measure import Examination
    from fromage_cli.diagnostics.check.render import advise, changes, finding_table, headline, looks, render
    from fromage_cli.diagnostics.check.rules import RULES, read_rules
    from fromage_cli.problem.conditions.budget import Budget
    from fromage_cli.terminal.answer import records

    budget = Budget(run.time_limit, run.max_memory)
    rules = read_rules(current().project.values.get(RULES_KEY, []))
    earlier = None if baseline is None else (baseline, read_baseline(baseline))
    chosen = (model.key, model.ema, model.optimizer_state, model.optimizer_key)
    series = gather_series(ckpt, *chosen, steps_per_epoch=optimizer.steps_per_epoch)
    groups = (optimizer, model, batch, held_out, tensors, run, output)
    options = {name: value for group in groups for name, value in asdict(group).items()}
    inputs = Inputs(options, ckpt, [one.place for one in series.checkpoints], budget.left)
    examination = Examination(budget.left)
    with problems_shared(), reads_shared():
        examine(examination, inputs, series.checkpoints, (model, batch, held_out, run))
    if run.estimate:
        return estimate_answer(examination.cost)
    if not examination.answers and not examination.failures:
        raise InputError("Nothing could be judged.", examination.skipped[0].reason if examination.skipped else "")
    result, findings, silenced = conclude(examination, rules, earlier)
    record = checkpoint_record(series.checkpoints[-1])
    return Answer(
        result=result,
        page=lambda style: render(result, findings, style),
        tables={
            "findings": lambda: finding_table(findings),
            "numbers": lambda: records(result.numbers),
            "changes": lambda: changes(result),
            "rules": lambda: records([*RULES.values()]),
            "summary": lambda: headline(result, findings),
        },
        findings=findings,
        told=tuple({one.code for one in findings}),
        looks=looks(result, findings),
        header=(short_place(record),),
        advice="" if examination.error is not None else advise(result.verdict, findings),
        checkpoints=tuple(map(checkpoint_record, series.checkpoints)),
        provenance=provenance_of_all(examination.answers.values()),
        notes=(*series.notes, *([f"Your rules silenced {counted(silenced, 'finding')}."] if silenced else [])),
        settings={"rules": [asdict(rule) for rule in rules]} if rules else {},
        error=budget.reached() if isinstance(examination.error, ResourceError) else examination.error,
    )


def examine(
    examination: "Examination",
    inputs: "Inputs",
    series: "Sequence[Checkpoint]",
    options: tuple[ModelOptions, BatchOptions, HeldOutOptions, RunOptions],
) -> None:
    """Ask the commands that need files alone, then those that need the network, if it can be had."""
    from fromage_cli.diagnostics.check.asking import FILES_ALONE

    model, batch, held_out, run = options
    last = series[-1]
    price = (lambda command: None) if run.estimate else inputs.price
    distance = ("distance",) if len(inputs.places) > 1 and model.optimizer_state is None else ()
    examination.look(("inspect", "state"), inputs.ask, price)
    named = any(map(typed, ("model", "batch", "val_batch")))

    def limited() -> RunOptions:
        return replace(run, time_limit=inputs.time_left())

    try:
        open_problem(last.place, model, batch, limited())
    except FromageError as error:
        examination.look((*distance, "norms"), lambda command: inputs.ask(command, **FILES_ALONE), price)
        if not named and not isinstance(error, NotFiniteError | ResourceError):
            likely = likely_problem(last, declared_by(last, model.trust))
            error = InputError(f"No network is given. Add{likely}, or save a bundle in training ({EXPLAIN_BUNDLE}).")
        examination.miss((FORWARD_PASS, *IN_NETWORK), error, named)
        return
    at_hand = named or names_network(last, model, batch)
    with_model: Sequence[str] = (*distance, "norms", *(("intrinsic-lr",) if at_hand else ()))
    examination.look(with_model, inputs.ask, price)
    examination.look(
        (FORWARD_PASS,),
        lambda _: answer_forward_pass(series, model, batch, limited(), held_out),
        named=typed("val_batch"),
    )
    examination.look(IN_NETWORK, inputs.ask, price)
    if typed("val_batch"):
        examination.look(("hypergrad",), inputs.ask, price)
