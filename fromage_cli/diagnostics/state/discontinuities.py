"""What it means that a checkpoint does not follow from the one before: codes and words."""

from collections.abc import Iterator, Sequence
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

WHICH = "Check which of them trains: loading an optimizer's state overwrites the rate of the configuration."
FOLDER: tuple[str, Severity, str] = ("rates-disagree", "info", WHICH)
BREAKS: dict[str, tuple[str, Severity, str]] = {
    "rises": ("rate-rises-again", "warn", "The schedule was started anew. Load the scheduler's state at the resume."),
    "jumps": ("rate-jumps", "warn", "Check the rate of the resume, and that it loaded the scheduler's state."),
    "schedule": ("rate-not-continued", "warn", "Load the scheduler's state at the resume, or check the new schedule."),
    "disagree": ("rates-disagree", "warn", WHICH),
}
"""Code, severity and what to do, by kind of break."""


def not_continued(found: Continuation) -> Iterator[Finding]:
    """The findings of one checkpoint against the one before."""
    first, updates = short_name(found.first), known(found.updates)
    grown, steps = number(updates), number(known(found.steps))
    if found.restarted:
        yield Finding(
            "optimizer-restarted",
            "warn",
            f"the optimizer was started anew after {first}, as its count of updates began again",
            value=updates,
            hint=f"At the resume, give optimizer.load_state_dict the state in {first}, or warm the rate up again.",
        )
    elif found.counts_differ:
        yield Finding(
            "updates-and-steps-differ",
            "warn",
            f"the count of updates grew by {grown} since {first}, and the step by {steps}",
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
    if found.emptied:
        yield about_names(
            "moments-not-continued",
            "warn",
            found.emptied,
            f"the moments of {counted(len(found.emptied), 'tensor')} are 0, and were not in {first}",
            RESUME,
        )
    yield from _beyond(
        found.second_moments,
        "moments-not-continued",
        "warn",
        f"of the second moments fell below what is left of those in {first}",
        RESUME,
    )
    yield from _beyond(
        found.first_moments,
        "moments-not-continued",
        "warn",
        f"of the first moments cannot follow from those in {first}",
        RESUME,
    )
    if found.rates_told:
        yield from _beyond(
            found.weights,
            "weights-not-continued",
            "warn",
            f"of the weights moved further since {first} than the optimizer can move them",
            "Check that both checkpoints are of one run, and that nothing else changed the weights.",
        )
    elif (far := known(found.weights_far)) is not None and far.entries:
        yield from _beyond(
            far,
            "weights-not-continued",
            "warn",
            f"of the weights moved 10 times further since {first} than the saved rates allow",
            "Check that both checkpoints are of one run, and that nothing else changed the weights.",
        )
    else:
        yield from _beyond(
            found.weights,
            "weights-not-continued",
            "info",
            f"of the weights moved further since {first} than the saved rates allow",
            "No schedule tells the rates between. Unless they were higher, something else changed the weights.",
        )


def unmoved(continuity: Sequence[Continuation], layers: int, narrow: frozenset[str]) -> Iterator[Finding]:
    """Tensors that did not change from one checkpoint to another, of so many; `narrow`: those whose steps are lost."""
    if not continuity:
        return
    files = len(continuity) + 1
    never = [name for name in continuity[0].unchanged if all(name in one.unchanged for one in continuity)]
    frozen = [name for name in never if any(name in one.frozen for one in continuity)]
    where = "both files" if files == 2 else f"all {files} files"
    for small, hint in (
        (False, "Check that the step reaches these weights: a copy may be trained, or they may be loaded again."),
        (True, "Each step is too small for 16-bit weights of this size. Keep the weights in float32."),
    ):
        if names := [name for name in frozen if (name in narrow) is small]:
            yield about_names(
                "layer-frozen",
                "warn",
                names,
                f"{counted(len(names), 'tensor')} hold{'s' if len(names) == 1 else ''} the same bytes in {where}, "
                "though the moments changed",
                hint,
            )
    if rest := [name for name in never if name not in frozen]:
        yield layers_unchanged(rest, layers, files)
    for one in continuity:
        if stopped := [name for name in one.frozen if name not in never and name not in narrow]:
            yield about_names(
                "layer-frozen",
                "warn",
                stopped,
                f"{counted(len(stopped), 'tensor')} did not change after {short_name(one.first)}, but the moments did",
                "Check that the step reaches these weights: a copy may be trained, or they may be loaded again.",
            )


def _beyond(broken: Broken | Missing, code: str, severity: Severity, words: str, hint: str) -> Iterator[Finding]:
    """A finding where entries are beyond a bound."""
    found = known(broken)
    if found is not None and found.entries:
        yield about_names(code, severity, found.names, f"{entries(found.entries)} {words}", hint, limit=0.0)


def short_name(place: str) -> str:
    """The last parts of a path that tell a checkpoint from others of its run."""
    path = PurePath(place)
    return path.name if any(letter.isdigit() for letter in path.stem) else f"{path.parent.name}/{path.name}"


def rate_finding(found: RateBreak) -> Finding:
    """One place where the rate does not go on."""
    rate, expected, at = number(found.rate), number(found.expected), f"at step {found.step:g}"
    words = {
        "rises": f"the learning rate had fallen to {expected} at step {found.before:g}, and is {rate} {at}",
        "jumps": f"the learning rate was {expected} up to step {found.before:g}, and is {rate} {at}",
        "schedule": f"the learning rate {at} is {rate}, where the schedule gives {expected}",
        "disagree": f"the optimizer's learning rate {at} is {rate}, and {SOURCES[found.source]} says {expected}",
    }
    code, severity, hint = FOLDER if found.source == "folder" else BREAKS[found.kind]
    if found.scheduled:
        severity, hint = "info", "The scheduler was stepped as often as the optimizer: its schedule means this."
    return Finding(code, severity, words[found.kind], value=found.rate, limit=found.expected, hint=hint)
