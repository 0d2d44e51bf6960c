"""`fromage-diag doctor`."""

import os

import typer

from fromage_cli.missing import Missing, found_of
from fromage_cli.terminal import session
from fromage_cli.terminal.answer import Answer, Provenance, Table, records
from fromage_cli.terminal.flags import CommandFlags
from fromage_cli.terminal.options import OutputOptions, TimeLimitOption, diagnostic
from fromage_cli.terminal.progress import progress


@diagnostic(
    tables=("checks", "versions", "extras", "configuration", "devices", "attention", "summary"),
    estimate=False,
    defaults={"fail_on": "fail"},
)
def command(
    context: typer.Context,
    *,
    time_limit: TimeLimitOption = "5m",  # type: ignore[assignment]
    output: OutputOptions,
) -> Answer:
    """Does everything work here: is all installed, is the configuration heard, do known answers come out?"""
    from fromage_cli.doctor.checks import checks
    from fromage_cli.doctor.findings import judge
    from fromage_cli.doctor.measure import measure
    from fromage_cli.doctor.render import headline, render
    from fromage_cli.problem.conditions.budget import Budget

    flags = CommandFlags(context.find_root().command)
    with progress("looking"):
        result, error = found_of(measure(flags, os.environ, session.current().directory, Budget(time_limit)))
    findings = judge(result)

    def listed(items: object) -> Table:
        return records(items if isinstance(items, tuple) else ())

    return Answer(
        result=result,
        page=lambda style: render(result, findings, style),
        tables={
            "checks": lambda: records(checks(result, findings)),
            "versions": lambda: listed(result.versions),
            "extras": lambda: listed(result.extras),
            "configuration": lambda: listed(result.configuration),
            "devices": lambda: listed(result.devices),
            "attention": lambda: listed(result.attention),
            "summary": lambda: headline(result, findings),
        },
        findings=findings,
        provenance=None if isinstance(result.self_test, Missing) else Provenance(device="cpu", dtype="float64"),
        error=error,
    )
