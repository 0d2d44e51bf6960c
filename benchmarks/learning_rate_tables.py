"""The tables of docs/learning-rate-study.md, in its order."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from learning_rate_report import PARTS, THRICE, Sample, Study, errors, fit, of_part
from learning_rate_rules import compared
from learning_rate_training import CHECKPOINT_STEPS, START

from fromage_cli.theory.rate_calibration import INTERVAL

LOCAL = (
    "lemma2-count",
    "lemma2-path",
    "lemma2-effective",
    "measured",
    "measured-sum",
    "critical",
    "critical-independent",
    "sharpness",
)
FINDER = ("finder-steepest", "finder-tenth", "finder-valley")
Predict = Callable[[Sample], float]
ERRORS = "| of | networks | mean error | bias | largest | beyond 3 × | 9 of 10 below |"


def report(study: Study) -> None:
    """Prints the tables."""
    _best_rates(study)
    typical = _typical(study)
    _initial(study, typical)
    _rules(study)
    _trained(study, typical)
    _finder(study)
    _local(study)
    _costs(study)


def _head(title: str, header: str) -> None:
    print(f"\n## {title}\n")
    _columns(header)


def _columns(header: str) -> None:
    print(header)
    print("|---" * (header.count("|") - 1) + "|")


def summary(values: Sequence[float]) -> str:
    """Count, mean size, mean, largest size, how many are beyond a factor of 3, size below which nine of ten are."""
    if not values:
        return "0 | – | – | – | – | –"
    sizes = np.abs(values)
    ninth = np.quantile(sizes, 0.9)
    beyond = int((sizes > THRICE).sum())
    return f"{len(sizes)} | {sizes.mean():.2f} | {np.mean(values):+.2f} | {sizes.max():.1f} | {beyond} | {ninth:.2f}"


def _rows(name: str, samples: Sequence[Sample], predict: Predict) -> None:
    """One row of errors for each part, and two for what was not calibrated on: all, and networks of unusual scale."""
    for part in PARTS:
        if chosen := of_part(samples, part):
            print(f"| {name}, {part} | {summary(errors(chosen, predict))} |")
    apart = [sample for sample in samples if sample.task.part != PARTS[0]]
    if len({sample.task.part for sample in apart}) > 1:
        print(f"| {name}, not {PARTS[0]} | {summary(errors(apart, predict))} |")
    if unusual := [sample for sample in apart if sample.task.unusual]:
        print(f"| {name}, unusual scale, not {PARTS[0]} | {summary(errors(unusual, predict))} |")


def _best_rates(study: Study) -> None:
    _head("Best rates", "| optimizer | trained | of | geometric mean | deviation | of one seed | of three | half |")
    for name in START:
        found = [best for (_, optimizer), best in study.best.items() if optimizer == name]
        if not found:
            continue
        octaves = [best.octave for best in found]
        variance = float(np.mean([best.variance for best in found]))
        one, three = math.sqrt(variance * 3.0), math.sqrt(variance)
        half = np.mean([best.half - best.octave for best in found])
        mean = START[name] * 2 ** float(np.mean(octaves))
        print(
            f"| {name} | {len(found)} | {len(study.tasks)} | {mean:.3g} | {np.std(octaves):.2f} | {one:.2f} | "
            f"{three:.2f} | {half:+.2f} |"
        )
    for name in START:
        untrained = [task for task in study.tasks if (task, name) not in study.best]
        print(f"\nNot trained by {name}: {', '.join(untrained) or 'none'}.")


def _typical(study: Study) -> dict[str, float]:
    samples = study.typical()
    known = of_part(samples, PARTS[0])
    typical = {
        name: float(np.mean([sample.best.octave for sample in known if sample.optimizer == name]))
        for name in START
        if any(sample.optimizer == name for sample in known)
    }
    _head("Typical rates", ERRORS)
    _rows("typical", samples, lambda sample: typical[sample.optimizer])
    print(f"\nRates: { ({name: float(f'{START[name] * 2**octave:.3g}') for name, octave in typical.items()}) }")
    return typical


def _initial(study: Study, typical: dict[str, float]) -> None:
    samples = study.probes(-1)
    if not samples:
        return
    kept = [sample for sample in samples if sample.reliable]
    fitted = _fitted("Short runs from the initialisation", kept)
    rejected = [sample for sample in samples if not sample.reliable]

    def usual(sample: Sample) -> float:
        return typical[sample.optimizer]

    _columns(ERRORS)
    _rows("reliable", kept, fitted)
    _rows("not reliable", rejected, fitted)
    _rows("reliable or not", samples, fitted)
    _rows("typical rate where reliable", kept, usual)
    _rows("typical rate where not", rejected, usual)
    apart = [sample for sample in kept if sample.task.part != PARTS[0]]
    for optimizer in START:
        chosen = [sample for sample in apart if sample.optimizer == optimizer]
        print(f"| reliable, {optimizer}, not {PARTS[0]} | {summary(errors(chosen, fitted))} |")
    print()
    _columns("| part | called reliable | root mean square | less noise | mean error, less noise | in the interval |")
    for part in PARTS:
        _quality(part, of_part(samples, part), fitted)
    _quality(f"not {PARTS[0]}", [sample for sample in samples if sample.task.part != PARTS[0]], fitted)
    _quality("language models, all parts", [sample for sample in samples if sample.task.data == "text"], fitted)
    print()
    _columns("| final loss over the least | part | median | nine of ten below |")
    for name, predict in (("at the rate of the short runs, reliable", fitted), ("at the typical rate there", usual)):
        for part in PARTS:
            _excess(name, part, of_part(kept, part), predict)


def _fitted(title: str, samples: Sequence[Sample]) -> Predict:
    """The formula fitted to the samples of the calibration half, its constants printed."""
    found = fit(of_part(samples, PARTS[0]))
    absolute = {
        name: offset + (1.0 - found.exponent) * math.log2(START[name]) for name, offset in found.offsets.items()
    }
    print(f"\n## {title}\n\nexponent {found.exponent:.2f}, offsets", end=" ")
    print({name: round(offset, 2) for name, offset in absolute.items()}, end="\n\n")
    return found.octave


def _quality(part: str, samples: Sequence[Sample], predict: Predict) -> None:
    """How many are reliable, and their errors, the noise of the best rates taken off in the squares."""
    kept = [sample for sample in samples if sample.reliable]
    if not kept:
        return
    found = np.array(errors(kept, predict))
    square = float(np.mean(found**2))
    noise = float(np.mean([sample.best.variance for sample in kept]))
    inside = float(np.mean(np.abs(found) <= INTERVAL))
    share = f"{len(kept)} of {len(samples)} ({len(kept) / len(samples):.0%})"
    root, less = math.sqrt(square), math.sqrt(max(0.0, square - noise))
    mean = float(np.abs(found).mean()) * less / root
    print(f"| {part} | {share} | {root:.2f} | {less:.2f} | {mean:.2f} | {inside:.0%} |")


def _excess(name: str, part: str, samples: Sequence[Sample], predict: Predict) -> None:
    if samples:
        ratios = [sample.best.excess(predict(sample)) for sample in samples]
        print(f"| {name} | {part} | {np.median(ratios):.2f} | {np.quantile(ratios, 0.9):.2f} |")


def _rules(study: Study) -> None:
    parts = (f"{PARTS[0]}, left out in turn", *PARTS[1:])
    columns = "".join(f" {part}: kept | mean error | beyond 3 × |" for part in parts)
    _head("Rules", f"| least gain | most spread |{columns}")
    for gain, spread, by_part in compared(study):
        print(f"| {gain:g} | {spread:g} | {' | '.join(map(_short, by_part))} |")


def _short(values: Sequence[float]) -> str:
    """Count, mean size, how many are beyond a factor of 3."""
    sizes = np.abs(values)
    return f"{len(sizes)} | {sizes.mean():.2f} | {int((sizes > THRICE).sum())}" if values else "0 | – | –"


def _trained(study: Study, typical: dict[str, float]) -> None:
    by_step = {step: study.probes(step) for step in CHECKPOINT_STEPS if step}
    samples = [sample for found in by_step.values() for sample in found]
    if not samples:
        return
    fitted = _fitted("Short runs from trained weights", samples)
    _columns(ERRORS)
    _rows("short runs", samples, fitted)
    _rows("typical rate", samples, lambda sample: typical[sample.optimizer])
    kept = [sample for sample in samples if sample.reliable]
    _rows("as from new weights, where it would be reliable", kept, fitted)
    for step, found in by_step.items():
        _rows(f"step {step}", found, fitted)


PLAIN = "| step | estimate | networks | mean error | bias | beyond 3 × | held-out, fitted |"


def _finder(study: Study) -> None:
    if study.finder:
        _head("Range test", f"{PLAIN} unseen, fitted |")
        for name in FINDER:
            _estimate(study, name, -1, PARTS[1:])


def _local(study: Study) -> None:
    _head("Without training", PLAIN)
    for step in CHECKPOINT_STEPS:
        for name in LOCAL:
            _estimate(study, name, step, PARTS[1:2])


def _estimate(study: Study, name: str, step: int, parts: Sequence[str]) -> None:
    """Errors as it stands on the networks that were not calibrated on, and after fitting the formula of the probe."""
    samples = study.estimates(name, step)
    known, apart = of_part(samples, PARTS[0]), [sample for sample in samples if sample.task.part != PARTS[0]]
    if not known or not apart:
        return
    plain = np.array(errors(apart, lambda sample: sample.octave))
    beyond = int((np.abs(plain) > THRICE).sum())
    fitted = fit(known).octave
    after = [errors(of_part(samples, part), fitted) for part in parts]
    means = " | ".join(f"{np.mean(np.abs(found)):.2f}" if found else "–" for found in after)
    row = f"{len(plain)} | {np.abs(plain).mean():.2f} | {plain.mean():+.2f} | {beyond} | {means}"
    print(f"| {'new' if step < 0 else step} | {name} | {row} |")


def _costs(study: Study) -> None:
    _head("Cost", "| estimate | gradients of | mean | most |")
    runs = [entry for entry in study.runs.values() if "centre" in entry]
    for words, field in (("training batches", "gradient_evaluations"), ("all rows", "full_batch_gradients")):
        _cost("short runs", words, [float(entry[field]) for entry in runs if field in entry])
    _cost("range test", "training batches", [float(entry["steps"]) for entry in study.finder.values()])
    for name in LOCAL:
        _cost(
            name,
            "all rows",
            [float(entry["costs"][name]) for entry in study.local.values() if name in entry.get("costs", {})],
        )


def _cost(name: str, unit: str, counts: Sequence[float]) -> None:
    if counts:
        print(f"| {name} | {unit} | {np.mean(counts):.1f} | {max(counts):.1f} |")
