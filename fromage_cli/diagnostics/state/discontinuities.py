"""What it means that a checkpoint does not follow from the one before: codes and words."""

from collections.abc import Iterator
from pathlib import PurePath

from fromage_cli.checkpoints.runs.rate_history import RateBreak
from fromage_cli.counting import counted
from fromage_cli.diagnostics.state.result import Broken, Continuation
from fromage_cli.diagnostics.state.words import entries
from fromage_cli.findings import Finding, Severity, about_names, layers_unchanged
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.words import number

RESUME = "Check that the resume loaded the optimizer's state of the same run and step."
SOURCES = {
    "scheduler": "the scheduler's own state",
    "log": "the trainer's log",
    "folder": "the name of its folder",
    "checkpoint": "the checkpoint before",
}


def not_continued(found: Continuation, layers: int) -> Iterator[Finding]:
    """The findings of one checkpoint against the one before; `layers`: how many were compared."""
    first, updates = short_name(found.first), known(found.updates)
    if found.restarted:
        yield Finding(
            "optimizer-restarted",
            "warn",
            f"the optimizer was started anew after {first}, as its count of updates began again",
            value=updates,
            hint=f"Load optimizer.state_dict() from {first} at the resume, or warm the rate up again.",
        )
    elif found.counts_differ:
        yield Finding(
            "updates-and-steps-differ",
            "warn",
            f"the optimizer counts {number(updates)} updates since {first}, and the files {number(known(found.steps))}",
            value=updates,
            limit=known(found.steps),
            hint=RESUME,
        )
    if found.stale:
        yield about_names(
            "moments-not-updated",
            "warn",
            found.stale,
            f"{counted(len(found.stale), 'tensor')} moved since {first} while the moments stayed the same",
            f"The state is that of an earlier step. {RESUME}",
        )
    yield from _beyond(
        found.second_moments,
        "moments-not-continued",
        f"of the second moments are smaller than what is left of those in {first}",
        RESUME,
    )
    yield from _beyond(
        found.first_moments,
        "moments-not-continued",
        f"of the first moments do not follow from those in {first}",
        RESUME,
    )
    if found.rates_told or not known(found.weights):
        yield from _beyond(
            found.weights,
            "weights-not-continued",
            f"of the weights are further from those in {first} than the optimizer can move them",
            "Check that both checkpoints are of one run, and that nothing else changed the weights.",
        )
    elif (weights := known(found.weights)) is not None and weights.entries:
        yield about_names(
            "weights-not-continued",
            "info",
            weights.names,
            f"{entries(weights.entries)} of the weights moved further since {first} than the saved rates allow",
            "No schedule tells the rates between. Unless they were higher, something else changed the weights.",
        )
    if found.frozen:
        yield about_names(
            "layer-frozen",
            "warn",
            found.frozen,
            f"{counted(len(found.frozen), 'tensor')} did not change since {first}, though the moments did",
            "Check that the step reaches these weights: a copy may be trained, or they may be loaded again.",
        )
    rest = [name for name in found.unchanged if name not in found.frozen]
    if rest:
        yield layers_unchanged(rest, layers, 2)


def _beyond(broken: Broken | Missing, code: str, words: str, hint: str) -> Iterator[Finding]:
    """A warning where entries are beyond a bound."""
    found = known(broken)
    if found is not None and found.entries:
        yield about_names(code, "warn", found.names, f"{entries(found.entries)} {words}", hint, limit=0.0)


def short_name(place: str) -> str:
    """The last parts of a path that tell a checkpoint from others of its run."""
    path = PurePath(place)
    return path.name if any(letter.isdigit() for letter in path.stem) else f"{path.parent.name}/{path.name}"


def rate_finding(found: RateBreak) -> Finding:
    """One place where the rate does not go on."""
    rate, expected = number(found.rate), number(found.expected)
    at, before = f"at step {found.step:g}", f"at step {found.before:g}"
    match found.kind:
        case "rises":
            code, words = "rate-rises-again", f"the learning rate had fallen to {expected} {before}, and is {rate} {at}"
            hint = "The schedule was started anew. Load the scheduler's state at the resume."
        case "jumps":
            code, words = (
                "rate-jumps",
                f"the learning rate was {expected} until step {found.before:g}, and is {rate} {at}",
            )
            hint = "Check the configuration of the resume, and that it loaded the scheduler's state."
        case "schedule":
            code, words = "rate-not-continued", f"the learning rate {at} is {rate}, where the schedule gives {expected}"
            hint = "Load the scheduler's state at the resume, or check the settings of the new schedule."
        case "disagree":
            code = "rates-disagree"
            words = f"the optimizer's learning rate {at} is {rate}, and {SOURCES[found.source]} says {expected}"
            hint = "Check which of them trains: loading an optimizer's state overwrites the rate of the configuration."
    severity: Severity = "info" if found.source == "folder" else "warn"
    return Finding(code, severity, words, value=found.rate, limit=found.expected, hint=hint)
