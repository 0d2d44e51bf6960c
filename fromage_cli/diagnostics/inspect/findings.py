"""What the contents of a checkpoint mean for the user: codes and words."""

from collections.abc import Iterator
from dataclasses import replace

from fromage_cli.counting import counted
from fromage_cli.diagnostics.inspect.result import InspectResult, SafetyResult
from fromage_cli.findings import Finding, about_names, layers_unchanged, never_updated
from fromage_cli.missing import known


def judge(result: InspectResult) -> tuple[Finding, ...]:
    """The findings of an inspected checkpoint, the gravest kinds first."""
    return (*judge_safety(result), *_contents(result))


def judge_safety(result: InspectResult | SafetyResult) -> tuple[Finding, ...]:
    """What would run where an ordinary loader reads the file, and what could not be looked into."""
    found = []
    dangerous = [entry for entry in result.safety if entry.verdict == "dangerous"]
    names = [entry.name if not entry.module else f"{entry.module}.{entry.name}" for entry in dangerous]
    if names:
        acts = "name runs code or reaches" if len(names) == 1 else "names run code or reach"
        message = f"in an ordinary loader {len(names)} {acts} files"
        hint = "Load it elsewhere only if you trust its source, and save weights as safetensors."
        found.append(replace(about_names("pickle-runs-code", "warn", names, message, hint, limit=0.0), layer=None))
    unknown = [f"{entry.module}.{entry.name}" for entry in result.safety if entry.verdict == "unknown"]
    if unknown and isinstance(result, SafetyResult):  # elsewhere a note names them
        names = list(dict.fromkeys(unknown))
        are = "name is" if len(names) == 1 else "names are"
        message = f"{len(names)} {are} not known to be harmless"
        hint = "Find out who wrote these modules first: an ordinary loader imports them and runs their code."
        found.append(replace(about_names("pickle-names-unknown", "warn", names, message, hint, limit=0.0), layer=None))
    unread = result.unread if isinstance(result, SafetyResult) else ()
    if unread:
        message = f"{counted(len(unread), 'part')} could not be looked into"
        hint = "Treat these parts as code: an ordinary loader may run what is in them."
        found.append(replace(about_names("not-all-read", "warn", unread, message, hint, limit=0.0), layer=None))
    return tuple(found)


def _contents(result: InspectResult) -> Iterator[Finding]:
    """What is not finite, zero or was not trained, and tensors of equal bytes."""
    for tensor in result.tensors:
        nonfinite, nan = known(tensor.nonfinite), known(tensor.nan) or 0
        if nonfinite:
            kinds = [f"{count} {kind}" for count, kind in ((nan, "NaN"), (nonfinite - nan, "infinite")) if count]
            yield Finding(
                code="tensor-not-finite",
                severity="fail",
                layer=tensor.name,
                message=f"{' and '.join(kinds)} of its {tensor.elements} entries",
                value=float(nonfinite),
                limit=0.0,
                hint="Go back to an earlier checkpoint. No training step makes these entries finite again.",
            )
    for log in result.logs:
        if log.not_finite:
            yield Finding(
                code="log-not-finite",
                severity="warn",
                message=f"the training loss in {log.file} is not finite in {log.not_finite} of {log.records} records",
                value=float(log.not_finite),
                limit=0.0,
                hint="Take the last checkpoint before the loss was first not finite.",
            )
    matrices = [tensor for tensor in result.tensors if len(tensor.shape) > 1 and tensor.elements]
    names = [tensor.name for tensor in matrices if tensor.zeros == tensor.elements]
    if names:
        zero = f"{len(names)} {'matrix holds' if len(names) == 1 else 'matrices hold'} nothing but zeros"
        hint = "This is usual for branches that start at zero. Otherwise the layer was never trained or has died."
        yield about_names("tensor-all-zero", "info", names, zero, hint)
    if result.optimizer is not None and result.optimizer.never_updated:
        yield never_updated(result.optimizer.never_updated)
    same = known(result.unchanged)
    if same is not None and same.layers:
        yield layers_unchanged(same.layers, same.layer_count, same.checkpoints)
    for group in known(result.duplicates) or ():
        hint = "These are shared weights saved under each name, or copies that were not trained yet."
        yield about_names("tensors-equal", "info", group, f"{counted(len(group), 'tensor')} hold the same bytes", hint)
