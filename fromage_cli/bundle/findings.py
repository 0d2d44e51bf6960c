"""What is wrong with a bundle: a file that was changed, a loss that differs, a graph that is missing or narrow."""

from fromage_cli.bundle.contents import BundleContents
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing
from fromage_cli.terminal.words import visible

CLOSE = 1e-4
"""Relative gap between two evaluations of one loss in float32, on two machines."""


def judge(contents: BundleContents) -> tuple[Finding, ...]:
    """What is wrong with a bundle, and what is doubtful."""
    found = [
        Finding(
            code="bundle-file-changed",
            severity="fail",
            message=f"{file.name} is not the file that was written",
            hint="Copy the bundle again, or save it anew.",
        )
        for file in contents.files
        if not file.intact
    ]
    for each in contents.losses:
        if not isinstance(each.now, Missing) and abs(each.now - each.saved) > CLOSE * max(abs(each.saved), CLOSE):
            found.append(
                Finding(
                    code="bundle-loss-differs",
                    severity="fail",
                    message=f"in mode {each.mode} the loss is {each.now:.6g}, and it was {each.saved:.6g} when saved",
                    value=each.now,
                    limit=each.saved,
                    hint="The bundle was changed, or this torch computes otherwise. Save it with this version.",
                )
            )
    if isinstance(contents.fixed_rows, str):
        found.append(
            Finding(
                code="bundle-rows-fixed",
                severity="info",
                message=f"the graph runs with {contents.rows} rows alone: {visible(contents.fixed_rows)}",
                hint="Do not use len(y) or a loop over rows in the loss. Or give --model with the bundle.",
            )
        )
    if isinstance(contents.why_no_graph, str):
        found.append(
            Finding(
                code="bundle-without-graph",
                severity="warn",
                message=f"there is no graph of the network: {visible(contents.why_no_graph)}",
                hint=f"Give --model with what builds it, such as {visible(contents.factory)}.",
            )
        )
    return tuple(found)
