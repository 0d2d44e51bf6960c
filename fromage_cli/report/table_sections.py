"""Sections that are tables: the next update, attention, regularisation, distance, all numbers."""

from fromage_cli.diagnostics.check.attention_findings import LARGE
from fromage_cli.report.gathered import Gathered
from fromage_cli.report.parts import LAYER, Section, sheet
from fromage_cli.report.told import entries_at, number_at, step_text, text_at
from fromage_cli.terminal.words import number


def optimizer_state(gathered: Gathered) -> Section | None:
    """What the optimizer's state says of the next update."""
    told = gathered.last("state")
    if told is None:
        return None
    keys = ("relative_update", "update_rms", "decay_share", "learning_rate")
    rows = [
        [text_at(one, "name"), *(number_at(one, key) for key in keys), number_at(one, "lost", "entries")]
        for one in entries_at(told, "layers")
    ]
    columns = (
        ("tensor", "Its name in the network."),
        ("update over weights", "Size of the next update as a share of the weights."),
        ("update, per rate", "Root mean square of the next update at a learning rate of 1."),
        ("share of decay", "Part of the update that is weight decay."),
        ("learning rate", "Of the tensor's parameter group."),
        ("share lost", "Share of the entries whose update is lost to rounding."),
    )
    whole = number_at(told, "totals", "relative_update")
    sentences = () if whole is None else (f"The next update changes the weights by {number(whole)} of their norm.",)
    return Section("Next update", sentences, (), sheet("Next update by tensor", columns, rows))


def attention(gathered: Gathered) -> Section | None:
    """Attention in the forward pass of `check`."""
    told = gathered.last("check")
    rows = []
    for block in entries_at(told, "forward_pass", "attention"):
        for head in entries_at(block, "heads"):
            keys = ("largest_logit", "entropy_share", "one_key_share")
            name = f"{text_at(block, 'module')}, head {number(number_at(head, 'head'))}"
            rows.append([name, *(number_at(head, key) for key in keys)])
    columns = (
        ("head", "The attention module and the number of its head."),
        ("largest logit", f"Largest score before the softmax. check mentions it above {LARGE:g}."),
        ("entropy", "Of the weights, as a share of the largest possible. Near 0 each query sees one key."),
        ("queries on one key", "Share of queries that give one key nearly all weight."),
    )
    found = sheet("Attention by head", columns, rows)
    if not found:
        return None
    largest = max((row[1] for row in rows if isinstance(row[1], float)), default=None)
    sentences = () if largest is None else (f"The largest attention logit is {number(largest)}.",)
    return Section("Attention", sentences, (), found)


def regularisation(gathered: Gathered) -> Section | None:
    """Which way weight decay, dropout and label smoothing should move."""
    told = gathered.last("hypergrad")
    if told is None:
        return None
    rows = [
        [
            f"{text_at(one, 'name')} ({text_at(one, 'scope')})",
            number_at(one, "value"),
            text_at(one, "advice") or None,
            number_at(one, "expected_change"),
        ]
        for one in entries_at(told, "hyperparameters")
        if text_at(one, "advice")
    ]
    columns = (
        ("hyperparameter", "What is moved, and for which tensors."),
        ("now", "Its value in training."),
        ("advice", "What to do, from the change of the validation loss."),
        ("change of the loss", "How much the validation loss would change."),
    )
    return Section("Regularisation", (), (), sheet("Which way to move", columns, rows))


def distance(gathered: Gathered) -> Section | None:
    """How far two checkpoints are apart."""
    told = gathered.last("distance")
    if told is None:
        return None
    layers = sorted(entries_at(told, "layers"), key=lambda one: -(number_at(one, "relative_distance") or 0.0))
    keys = ("relative_distance", "angle", "first_norm", "second_norm")
    rows = [[text_at(one, "name"), *(number_at(one, key) for key in keys)] for one in layers]
    columns = (
        LAYER,
        ("moved", "Distance as a share of the layer's first norm."),
        ("angle", "Radians between both."),
        ("norm before", "Of the first checkpoint."),
        ("norm after", "Of the second."),
    )
    first, second, outputs = (number_at(told, key) for key in ("first_step", "second_step", "function_distance"))
    between = f" between step {step_text(first)} and step {step_text(second)}" if None not in (first, second) else ""
    moved = text_at(layers[0], "name") if layers else ""
    sentences = [f"{moved} moved most{between}."] if moved else []
    sentences += [] if outputs is None else [f"The outputs differ by {number(100.0 * outputs)} %{between}."]
    return Section("Distance", tuple(sentences), (), sheet("Distance by layer", columns, rows))


def numbers(gathered: Gathered) -> Section | None:
    """What was asked, and every headline number of `check`."""
    told = gathered.last("check")
    rows = [
        [f"{text_at(one, 'command')}: {text_at(one, 'name').replace('_', ' ')}", number_at(one, "value"),
         text_at(one, "unit")]
        for one in entries_at(told, "numbers")
    ]  # fmt: skip
    columns = (("number", "Command and name."), ("value", "As measured."), ("unit", "What it counts."))
    asked = [
        [
            text_at(one, "command"),
            text_at((entries_at(one, "checkpoints") or [{}])[-1], "path") or "none",
            text_at(one, "status"),
            number_at(one, "tool", "seconds"),
            text_at(one, "tool", "version"),
        ]
        for one in gathered.answers
    ]
    answers = (
        ("command", "What was asked."),
        ("checkpoint", "The last that it looked at."),
        ("status", "ok, warn, fail or error."),
        ("seconds", "That it took."),
        ("version", "Of fromage-diag."),
    )
    return Section(
        "All numbers", (), (), (*sheet("Headline numbers", columns, rows), *sheet("Answers", answers, asked))
    )
