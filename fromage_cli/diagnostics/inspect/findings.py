"""What the contents of a checkpoint mean for the user: codes and words."""

from collections.abc import Iterator, Sequence

from fromage_cli.diagnostics.inspect.result import InspectResult, NamedCode, SafetyResult
from fromage_cli.findings import Finding

NAMED = 3
"""Names spelled out in a sentence."""


def judge(result: InspectResult) -> tuple[Finding, ...]:
    """The findings of an inspected checkpoint, the gravest kinds first."""
    kinds = (judge_safety, _not_finite, _logs, _zero_matrices, _duplicates)
    return tuple(finding for kind in kinds for finding in kind(result))


def judge_safety(result: InspectResult | SafetyResult) -> tuple[Finding, ...]:
    """What would run where an ordinary loader reads the file."""
    return (*_running(result), *(_unread(result) if isinstance(result, SafetyResult) else ()))


def _running(result: InspectResult | SafetyResult) -> Iterator[Finding]:
    names = [entry.name if not entry.module else f"{entry.module}.{entry.name}" for entry in _dangerous(result)]
    if names:
        acts = "1 name that runs code or reaches" if len(names) == 1 else f"{len(names)} names that run code or reach"
        yield Finding(
            code="pickle-runs-code",
            severity="warn",
            message=f"the file has {acts} files in an ordinary loader: {_first(names)}",
            value=float(len(names)),
            limit=0.0,
            hint="Nothing was run here. Load it elsewhere only if you trust its source; save weights as safetensors.",
        )


def _unread(result: SafetyResult) -> Iterator[Finding]:
    if parts := len(result.unread):
        yield Finding(
            code="not-all-read",
            severity="warn",
            message=f"{parts} part{'s' if parts > 1 else ''} of it could not be looked into: {_first(result.unread)}",
            value=float(parts),
            limit=0.0,
            hint="What is in there is not known, and may run code in an ordinary loader; see `read in part`.",
        )


def _dangerous(result: InspectResult | SafetyResult) -> Iterator[NamedCode]:
    return (entry for entry in result.safety if entry.verdict == "dangerous")


def _not_finite(result: InspectResult) -> Iterator[Finding]:
    for tensor in result.tensors:
        if tensor.nonfinite:
            infinite = tensor.nonfinite - (tensor.nan or 0)
            kinds = [f"{count} {kind}" for count, kind in ((tensor.nan or 0, "NaN"), (infinite, "infinite")) if count]
            yield Finding(
                code="tensor-not-finite",
                severity="fail",
                layer=tensor.name,
                message=f"{' and '.join(kinds)} of {tensor.elements} entries",
                value=float(tensor.nonfinite),
                limit=0.0,
                hint="Go back to an earlier checkpoint: no step from here makes them finite again.",
            )


def _logs(result: InspectResult) -> Iterator[Finding]:
    for log in result.logs:
        if log.not_finite:
            yield Finding(
                code="log-not-finite",
                severity="warn",
                message=f"the training loss in {log.file} is not finite in {log.not_finite} of {log.records} records",
                value=float(log.not_finite),
                limit=0.0,
                hint="Weights from after the first of them may be spoilt; take the last checkpoint before.",
            )


def _zero_matrices(result: InspectResult) -> Iterator[Finding]:
    names = [
        tensor.name
        for tensor in result.tensors
        if len(tensor.shape) > 1 and tensor.elements and tensor.zeros == tensor.elements
    ]
    if names:
        yield Finding(
            code="tensor-all-zero",
            severity="info",
            layer=names[0] if len(names) == 1 else None,
            message=f"every entry of {_counted(names)} with two or more dimensions is zero: {_first(names)}",
            value=float(len(names)),
            hint="Usual for branches that start at zero; otherwise the layer was never trained or has died.",
        )


def _duplicates(result: InspectResult) -> Iterator[Finding]:
    for group in result.duplicates or ():
        yield Finding(
            code="tensors-equal",
            severity="info",
            message=f"{_counted(group)} hold the same bytes: {_first(group)}",
            value=float(len(group)),
            hint="Shared weights that were saved once for each name, or copies that have not been trained yet.",
        )


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}"


def _first(names: Sequence[str]) -> str:
    return f"{', '.join(names[:NAMED])}{' …' if len(names) > NAMED else ''}"
