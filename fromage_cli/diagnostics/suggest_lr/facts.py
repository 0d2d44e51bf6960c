"""The answer in numbers: how far the next step may go, the rate to train at, and whether the present one is stable."""

import math
from collections.abc import Iterator

from fromage_cli.counting import counted, first_names
from fromage_cli.diagnostics.suggest_lr.findings import (
    estimate,
    lost_in_noise,
    sure_on_rows_alone,
    sure_rates,
    uphill,
    verified_best,
)
from fromage_cli.diagnostics.suggest_lr.result import SuggestedRates
from fromage_cli.missing import Missing, Why, known
from fromage_cli.terminal.answer import PageStyle, Table, summary
from fromage_cli.terminal.page import Band, Fact, Mark
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number, number_range
from fromage_cli.theory.rate_calibration import INTERVAL

NOT_KNOWN = "not known"
NOT_REACHED = "the run ended before it was looked for"


def trained_at(result: SuggestedRates) -> str:
    """The optimizer and the rate that the numbers are for."""
    name, rate = result.optimizer.name, known(result.optimizer.current_learning_rate)
    if name is None:
        return "no optimizer named"
    if rate is None:
        return OPTIMIZER_TITLES[name]
    return f"{OPTIMIZER_TITLES[name]} at {number_range(result.optimizer.lowest_learning_rate, rate)}"


def next_step(result: SuggestedRates) -> Iterator[Fact]:
    """Up to which rates the next step is sure to help, and from which on it raises the loss.

    Nothing is called sure where the search did not come to its end: `--value limit` exits 10 there.
    """
    layers, whole = sure_rates(result)
    sure, falls, end = ("Sure", "the loss is sure to fall", "")
    if not result.limit.reliable:
        sure, falls, end = ("Helps", "the loss falls", ", as far as looked")
    if layers is not None:
        words = f"every layer helps{end}" if end else _first_to_fail(result)
        yield Fact(f"{sure} in every layer", number(layers), words)
    elif _was_cut_short(result, "measured"):
        yield Fact("Sure in every layer", NOT_KNOWN, NOT_REACHED)
    else:
        yield Fact("Sure in every layer", "none", not_every_layer(result))
    if whole is not None:
        yield Fact(f"{sure} as a whole", number(whole), f"{falls}{end}")
    elif layers is None and not _was_cut_short(result, "measured"):
        yield Fact("Sure as a whole", "none", "no step tried is sure to lower the loss")
    label = "Loss rises"
    for name, rises, where in (
        ("critical", "one step raises the loss of this batch", "on this batch"),
        ("critical-independent", "the same for rows outside the batch", "on rows outside the batch"),
    ):
        for each in result.estimates:
            if each.name == name:
                if _was_cut_short(result, name):
                    yield Fact(label, NOT_KNOWN, NOT_REACHED)
                else:
                    none = isinstance(each.learning_rate, Missing)
                    words = f"{each.assumption.few} {where}" if none else rises
                    yield Fact(label, number(each.learning_rate), words)
                label = ""
    if not isinstance(result.draws, Missing):
        places = f"{number(result.draws.low)} to {number(result.draws.high)}"
        yield Fact("", places, f"the same under {result.draws.count} other random draws")


def _first_to_fail(result: SuggestedRates) -> str:
    """What stops helping first, and what noise makes of the layers: sure on these rows alone, or judged together."""
    first = fails_first(result)
    fails = "vectors (biases, gains) fail first" if first is None else f"{first} fails first"
    if sure_on_rows_alone(result):
        return f"on these rows; {fails}"
    together = f"{counted(len(result.uncertain), 'layer')} judged with the vectors"
    return f"{together}; {fails}" if result.uncertain else fails


def _was_cut_short(result: SuggestedRates, name: str) -> bool:
    """Whether a time or memory limit, or the user, ended the run before an estimate was made."""
    rates = [each.learning_rate for each in result.estimates if each.name == name]
    return any(isinstance(rate, Missing) and rate.code is Why.LIMIT_REACHED for rate in rates)


def not_every_layer(result: SuggestedRates) -> str:
    """Why no step is sure to help every layer, and whether a larger batch would show one."""
    if against := uphill(result):
        return f"in {first_names(against)} the step points uphill"
    if noisy := lost_in_noise(result):
        rows = counted(result.optimizer.train_batch_size, "row")
        return f"noise hides the gradient of {first_names(noisy)} at {rows} a batch; a larger batch helps"
    if flat := [layer.name for layer in result.layers if layer.cosine <= 0.0]:
        return f"in {first_names(flat)} the step points uphill or is noise; a larger batch would tell"
    return "even the smallest step tried is too large for a layer"


def said_by_page(result: SuggestedRates) -> tuple[str, ...]:
    """Kinds of findings that the page says itself."""
    said = ("rate-above-limit", "verification-prefers-another", "recommended-above-critical")
    said_of_layers = ("certain-together-only", "step-uphill", "noise-dominates")
    return said if sure_rates(result)[0] is not None else (*said, *said_of_layers)


def fails_first(result: SuggestedRates) -> str | None:
    """The layer in which the step stops helping first; None where the vectors, which are judged together, do."""
    if result.limit.estimator == "measured":
        return result.limit.limiting_layer
    sure = next((known(each.eta) for each in result.estimates if each.name == "measured"), None)
    found = [(eta, layer.name) for layer in result.layers if (eta := known(layer.trust_eta)) is not None]
    if sure is None or not found:
        return None
    eta, name = min(found)
    return name if eta <= min((point.eta for point in result.points if point.eta > sure), default=sure) else None


def training(result: SuggestedRates, style: PageStyle) -> Iterator[Fact]:
    """The rate to train at with its range and what it rests on, or why there is none; the runs that verify it."""
    found, label = result.recommended, "Rate to train at"
    low, high = known(found.low), known(found.high)
    unknown = isinstance(found.learning_rate, Missing)
    between = ""
    if low is not None and high is not None:
        likely = f"between {number(low)} and {number(high)} ({100 * INTERVAL:.0f} % likely)"
        between = f"{'it lies' if unknown else 'best'} {likely}"
    if isinstance(found.learning_rate, Missing):
        asked = found.learning_rate.code is not Why.NOT_ASKED
        why = found.reason if asked else "short runs tell it: leave --probe none out"
        yield Fact(label, NOT_KNOWN, between or why)
    else:
        yield Fact(label, f"{'' if found.reliable else '≈ '}{number(found.learning_rate)}", between)
    if result.probe:
        costs = {each.name: each.gradient_evaluations for each in result.estimates}
        if costs.pop(found.estimator or "probe", 0.0) > sum(costs.values()):
            yield Fact("", "", "the runs take longest: --probe none skips them")
    if style.verbose and found.reliable and (regret := known(found.regret)) is not None:
        yield Fact("", "", f"about {100 * regret:.0f} % of the progress is lost at it")
    if result.verification:
        best = verified_best(result)
        yield Fact("Verified", "no winner" if best is None else number(best.learning_rate), verdict(result))
        losses = [math.inf if (end := known(run.end_loss)) is None else end for run in result.verification]
        ends = [
            f"{number(loss)} at {run.learning_rate:.2g}" for loss, run in zip(losses, result.verification, strict=True)
        ]
        yield Fact("Loss at their end", "", ", ".join(ends))


def runs_made(result: SuggestedRates) -> str:
    """How many short runs there were, with how many steps in all, in brackets; empty where there was none."""
    steps = counted(sum(run.steps for run in result.probe), "step")
    made = f" ({counted(len(result.probe), 'short run')} {along(result)}, {steps} together)"
    return made if result.probe else ""


def along(result: SuggestedRates) -> str:
    """How the rate goes in the runs."""
    return "at a constant rate" if result.schedule == "constant" else "with your schedule"


def verdict(result: SuggestedRates) -> str:
    """Which of the verified rates ends lowest, over how many steps that holds, or that they end alike."""
    steps, best = counted(max(len(run.losses) for run in result.verification), "step"), verified_best(result)
    if all(isinstance(run.end_loss, Missing) for run in result.verification):
        return "at all of these rates the loss overflows"
    if best is None and not any(known(run.spread) for run in result.verification):
        return "one batch tells no rates apart: give five training batches"
    if best is None:
        return f"all end alike after {steps}"
    return f"ends lowest after {steps} {along(result)}"


def stability(result: SuggestedRates, style: PageStyle) -> Iterator[Fact]:
    """The present rate held against today's curvature, which promises nothing of training.

    That curvature bounds no rate of an optimizer is said under `-v`.
    """
    rate, found = known(result.optimizer.current_learning_rate), result.stability
    stable, ratio = found.learning_rate, known(found.ratio)
    title = OPTIMIZER_TITLES.get(result.optimizer.name or "", "")
    label = f"Stable at {number(rate)}" if rate else "Stable"
    if isinstance(stable, Missing):
        formula = stable.code is Why.NO_FORMULA
        if stable.code is not Why.NOT_ASKED and (style.verbose or not formula):
            yield Fact(label, NOT_KNOWN, f"no curvature bounds the rate of {title}" if formula else stable.words)
    elif found.adam_begins:
        unsaved = "without a state of Adam curvature tells little"
        begins = "Adam has hardly begun: curvature tells little"
        yield Fact(label, NOT_KNOWN, unsaved if found.adam_unsaved else begins)
    elif ratio is None:
        yield Fact("Stable up to", number(stable), "by today's curvature; --lr names your rate")
    else:
        only = "only " if ratio >= 1.0 else ""
        yield Fact(label, "no" if ratio >= 1.0 else "yes", f"{only}up to {number(stable)} by today's curvature")
        if found.diverged_from is not None and found.diverged_from <= ratio < 1.0:
            yield Fact("", "", "some networks that began so close to it diverged")


def marks(result: SuggestedRates) -> list[Mark]:
    """The same places on a ruler, with the user's own rate."""
    layers, whole = sure_rates(result)
    places = [
        (known(result.optimizer.current_learning_rate), "▼", "you", "yellow"),
        (layers, "●", "every layer", "green"),
        (whole, "◆", "whole", ""),
        (estimate(result, "critical"), "▲", "rises", "red"),
        (estimate(result, "critical-independent"), "○", "other rows", ""),
    ]
    return [Mark(value, sign, words, colour) for value, sign, words, colour in places if value is not None]


def band(result: SuggestedRates) -> Band | None:
    """The range of the rate to train at on the ruler; the rate alone where it has none."""
    rate, low, high = (known(getattr(result.recommended, name)) for name in ("learning_rate", "low", "high"))
    ends = (low or rate, high or rate)
    return None if ends[0] is None or ends[1] is None else Band(ends[0], ends[1], "train at")


def headline(result: SuggestedRates) -> Table:
    """The numbers that the page begins with."""
    layers, whole = sure_rates(result)
    recommended, rate = result.recommended, "learning rate"
    return summary(
        [
            ("sure_in_every_layer", layers, rate),
            ("sure_as_a_whole", whole, rate),
            ("loss_rises", estimate(result, "critical"), rate),
            ("loss_of_other_rows_rises", estimate(result, "critical-independent"), rate),
            ("rate_to_train_at", recommended.learning_rate, rate),
            ("rate_to_train_at_low", recommended.low, rate),
            ("rate_to_train_at_high", recommended.high, rate),
            ("stable_up_to", result.stability.learning_rate, rate),
            ("you_train_at", result.optimizer.current_learning_rate, rate),
            ("fails_first", fails_first(result), "layer"),
            ("optimizer", result.optimizer.name, "name"),
            ("loss", result.loss, "loss"),
        ]
    )
