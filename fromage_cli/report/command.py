"""`fromage-diag report`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fromage_cli.checkpoints.storage.sharing import reads_shared
from fromage_cli.errors import ResourceError, UsageError
from fromage_cli.intake.sharing import problems_shared
from fromage_cli.terminal import session, streams
from fromage_cli.terminal.answer import Answer, Estimate, Table, estimate_answer, provenance_of_all
from fromage_cli.terminal.answer import summary as table_of
from fromage_cli.terminal.optimizer_options import TrainingOptions
from fromage_cli.terminal.options import (
    BatchOptions,
    HeldOutOptions,
    ModelOptions,
    NameOptions,
    OutputOptions,
    RunOptions,
    diagnostic,
)
from fromage_cli.terminal.words import visible


@dataclass(frozen=True)
class ReportResult:
    """What a page shows."""

    answers: tuple[Mapping[str, Any], ...]
    """The envelopes of the commands that it draws."""


@diagnostic(tables=("answers", "summary"), estimate=True, own_format="html")
def command(
    ckpt: Annotated[
        list[str],
        typer.Argument(
            metavar="CKPT…|RESULT…",
            help="Checkpoints of one run, or answers as JSON or as a page. - reads names from stdin.",
        ),
    ],
    *,
    optimizer: TrainingOptions,
    model: ModelOptions,
    batch: BatchOptions,
    held_out: HeldOutOptions,
    tensors: NameOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """One page for a browser: what every command says about a run.

    Checkpoints are asked first, as `check` does. Answers that you saved are drawn as they are.
    """
    optimizer.check()

    from fromage_cli.report.gathered import SEVERITIES, Gathered
    from fromage_cli.report.opening import holds_answers, read_answers
    from fromage_cli.report.page import html_page, summary_of
    from fromage_cli.report.runs import check_one_network
    from fromage_cli.terminal.tables import prose

    saved = [Path(name) for name in ckpt if holds_answers(Path(name))]
    asked = [name for name in ckpt if Path(name) not in saved]
    envelopes = [envelope for path in saved for envelope in read_answers(path)]
    check_one_network(envelopes)
    answers: list[Answer] = []
    error = None
    if asked:
        from fromage_cli.checkpoints.runs.gathering import gather_series
        from fromage_cli.diagnostics.check.asking import Inputs
        from fromage_cli.problem.conditions.budget import Budget
        from fromage_cli.report.gathering import ask_run, estimate_run

        chosen = (model.key, model.ema, model.optimizer_state, model.optimizer_key)
        series = gather_series(asked, *chosen, steps_per_epoch=optimizer.steps_per_epoch)
        groups = (optimizer, model, batch, held_out, tensors, run, output)
        options = {name: value for group in groups for name, value in asdict(group).items()}
        budget = Budget(run.time_limit, run.max_memory)
        inputs = Inputs(options, asked, [one.place for one in series.checkpoints], budget.left)
        with problems_shared(), reads_shared():
            if run.estimate:
                return estimate_answer(estimate_run(inputs))
            require_file()
            found, answers, error = ask_run(inputs)
        error = budget.reached() or error if isinstance(error, ResourceError) else error
        envelopes += found
        check_one_network(envelopes)
    if run.estimate:  # what was saved takes next to nothing
        return estimate_answer(Estimate(0.0, None, 0.0))
    require_file()
    gathered = Gathered(envelopes)
    summary = summary_of(gathered)
    destination = session.current().destination
    whole = destination is not None and destination.format == "html"
    path = destination.path if destination is not None and whole else None
    rows = tuple((one.command, one.step, one.place) for one in gathered.answered)
    counts = [(kind, sum(one.severity == kind for one in gathered.findings), "findings") for kind in SEVERITIES]
    return Answer(
        result=ReportResult(tuple(envelopes)),
        page=lambda style: prose(summary.verdict, style),
        tables={
            "answers": lambda: Table(("command", "step", "checkpoint"), rows),
            "summary": lambda: table_of(
                [("verdict", summary.kind, ""), *counts, ("answers", len(envelopes), "answers")]
            ),
        },
        findings=tuple(gathered.findings),
        advice=summary.remedy,
        checkpoints=answers[0].checkpoints if answers else (),
        provenance=provenance_of_all(answers) if answers else None,
        notes=() if path is None else (f"the page was written to {visible(str(path))}",),
        alone=html_page(envelopes) if whole else None,
        error=error,
    )


def require_file() -> None:
    """Raise UsageError where a page would go to a terminal."""
    destination = session.current().destination
    page = destination is not None and destination.format == "html" and destination.path is None
    if page and streams.is_terminal(streams.answer()):
        raise UsageError("An HTML page is not for a terminal.", "Name a file: -o report.html")
