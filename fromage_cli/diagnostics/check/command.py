"""`fromage-diag check`."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from typing import Any

from fromage_cli.errors import InputError
from fromage_cli.intake import checkpoint_record, short_place
from fromage_cli.terminal.answer import Answer, Answers, Provenance, estimate_answer
from fromage_cli.terminal.optimizer_options import OptimizerOptions
from fromage_cli.terminal.options import (
    BatchOptions,
    ModelOptions,
    NameOptions,
    OutputOptions,
    RunArgument,
    RunOptions,
    diagnostic,
)
from fromage_cli.terminal.session import typed


@diagnostic(tables=("findings", "summary"), estimate=True, defaults={"fail_on": "fail"})
def command(
    ckpt: RunArgument,
    *,
    optimizer: OptimizerOptions,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: NameOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Is my run healthy: go on, look at this, or stop?

    Files alone already answer. With a network and a batch, sharpness and breakdown look too.
    """
    from fromage_cli.checkpoints.runs.gathering import gather_series
    from fromage_cli.diagnostics.check.findings import judge, verdict_of
    from fromage_cli.diagnostics.check.measure import FILES, NETWORK, Examination
    from fromage_cli.diagnostics.check.render import advise, finding_table, headline, looks, render
    from fromage_cli.diagnostics.check.result import CheckResult
    from fromage_cli.problem.conditions.budget import Budget

    Budget(run.time_limit, run.max_memory)  # watches for the limits from now on
    series = gather_series(ckpt, model.key, model.ema, model.optimizer_state, model.optimizer_key)
    last = series.checkpoints[-1]
    groups = (optimizer, model, batch, tensors, run, output)
    shared = {name: value for group in groups for name, value in asdict(group).items()} | {"time_limit": None}

    def ask(name: str) -> Answers:
        return answered(name, shared, ckpt, last.place)

    examination = Examination()
    examination.look(FILES, ask, named=False)
    examination.look(NETWORK, ask, named=typed("model") or typed("batch"))
    if run.estimate:
        return estimate_answer(examination.cost)
    if not examination.answers:
        raise InputError("Nothing could be judged.", examination.skipped[0].reason if examination.skipped else "")
    findings = judge(examination.out_of_line, examination.findings)
    result = CheckResult(
        verdict=verdict_of(findings),
        looked=tuple(examination.answers),
        skipped=tuple(examination.skipped),
        out_of_line=examination.out_of_line,
        results=examination.results,
    )
    record = checkpoint_record(last)
    return Answer(
        result=result,
        page=lambda style: render(result, examination, findings, style),
        tables={
            "findings": lambda: finding_table(examination, findings),
            "summary": lambda: headline(result, findings),
        },
        findings=findings,
        looks=looks(examination, findings),
        header=(short_place(record),),
        advice=advise(result.verdict, findings),
        checkpoints=tuple(map(checkpoint_record, series.checkpoints)),
        provenance=Provenance(device="cpu", dtype="float64"),
        notes=series.notes,
        error=examination.error,
    )


def answered(name: str, shared: Mapping[str, object], ckpt: object, last: str) -> Answers:
    """What a command answers by itself, with the flags that it has; most are asked about the last file."""
    asked: Any = import_module(f"fromage_cli.diagnostics.{name.replace('-', '_')}.command").command
    values: dict[str, object] = {}
    for flag, parameter in inspect.signature(asked).parameters.items():
        values[flag] = shared.get(flag, parameter.default)
    values["ckpt"] = [last] if name == "inspect" else ckpt if name in ("state", "norms") else last
    answers: Answers = asked(**values)
    return answers
