"""What the learning-rate study says: best rates, the constants fitted to one half of the networks, and every error."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from learning_rate_networks import Task
from learning_rate_training import CHECKPOINT_STEPS, START, Results

from fromage_cli.theory.rate_calibration import LEAST_GAIN

LEARNED = 0.9
"""A network counts as trainable where its best final loss is below this part of the initial one."""
BESIDE = 2
"""Octaves on each side of the best one that the parabola is fitted to."""
RIDGE = 0.5
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
Key = tuple[str, str]
"""Task and optimizer."""


@dataclass(frozen=True)
class Best:
    """The best rate of one network under one optimizer, in octaves from where the search began."""

    octave: float
    by_seed: tuple[float, ...]
    half: float
    """The same after half of the steps."""
    octaves: tuple[int, ...]
    logarithms: tuple[float, ...]
    """Of the mean final loss at each."""


def vertex(octaves: Sequence[int], logarithms: Sequence[float]) -> float:
    """Where a parabola fitted to the five octaves around the least is least; losses count as at most e times it."""
    least = min(range(len(octaves)), key=lambda place: logarithms[place])
    near = range(max(0, least - BESIDE), min(len(octaves), least + BESIDE + 1))
    x = [octaves[place] for place in near]
    y = [min(logarithms[place], logarithms[least] + 1.0) for place in near]
    curvature, slope, _ = np.polyfit(x, y, 2)
    if curvature <= 0.0:
        return float(octaves[least])
    return float(min(max(-slope / (2.0 * curvature), x[0]), x[-1]))


def best_rates(grid: Results) -> dict[Key, Best]:
    """Of every network that the search is finished for and that can be trained."""
    runs: dict[Key, dict[int, dict[int, dict[str, float]]]] = {}
    for (task, optimizer, octave, seed), entry in grid.found.items():
        runs.setdefault((task, optimizer), {}).setdefault(octave, {})[seed] = entry
    found = {}
    for key, by_octave in runs.items():
        whole = {octave: seeds for octave, seeds in sorted(by_octave.items()) if len(seeds) == 3}
        if len(whole) < 2 * BESIDE + 1:
            continue
        octaves = list(whole)

        def logarithms(field: str, seeds: Iterable[int], whole: dict = whole) -> list[float]:
            chosen = list(seeds)
            means = [sum(at[seed][field] for seed in chosen) / len(chosen) for at in whole.values()]
            return [math.log(mean) if math.isfinite(mean) else math.inf for mean in means]

        final = logarithms("final", range(3))
        if min(final) > math.log(LEARNED * next(iter(whole.values()))[0]["initial"]):
            continue
        found[key] = Best(
            octave=vertex(octaves, final),
            by_seed=tuple(vertex(octaves, logarithms("final", [seed])) for seed in range(3)),
            half=vertex(octaves, logarithms("half", range(3))),
            octaves=tuple(octaves),
            logarithms=tuple(final),
        )
    return found


@dataclass(frozen=True)
class Sample:
    """One estimate of one best rate, both in octaves from where the search began."""

    task: Task
    optimizer: str
    best: float
    octave: float
    reliable: bool = True


@dataclass(frozen=True)
class Fit:
    """log2 rate = offset + exponent * log2 r, one exponent for all optimizers; octaves from where the search began."""

    offsets: dict[str, float]
    exponent: float

    def octave(self, sample: Sample) -> float:
        """The rate that it makes of a sample."""
        return self.offsets[sample.optimizer] + self.exponent * sample.octave


def fit(samples: Sequence[Sample]) -> Fit:
    """Least squares with a little ridge on the exponent."""
    names = list(START)
    rows = [[float(s.optimizer == name) for name in names] + [s.octave] for s in samples]
    matrix, best = np.array(rows), np.array([s.best for s in samples])
    ridge = np.diag([1e-6] * len(names) + [RIDGE])
    *offsets, exponent = np.linalg.solve(matrix.T @ matrix + ridge, matrix.T @ best)
    return Fit(dict(zip(names, map(float, offsets), strict=True)), float(exponent))


def errors(samples: Iterable[Sample], predict: Callable[[Sample], float]) -> list[float]:
    """Octaves above the best rate."""
    return [predict(sample) - sample.best for sample in samples]


def summary(values: Sequence[float]) -> str:
    """Count, mean and largest size, mean, how many are beyond a factor of 3."""
    if not values:
        return "0 | – | – | – | –"
    sizes = [abs(value) for value in values]
    beyond = sum(size > math.log2(3.0) for size in sizes)
    return f"{len(values)} | {np.mean(sizes):.2f} | {np.mean(values):+.2f} | {max(sizes):.1f} | {beyond}"


class Study:
    """Everything that was measured, and the tables made of it."""

    def __init__(self, tasks: Sequence[Task], folder: Path) -> None:
        self.tasks = {task.name: task for task in tasks}
        self.best = best_rates(Results(folder / "grid.jsonl", ("task", "optimizer", "octave", "seed")))
        self.runs = Results(folder / "short-runs.jsonl", ("task", "optimizer", "step")).found
        self.local = Results(folder / "estimates.jsonl", ("task", "optimizer", "step")).found

    def half(self, name: str) -> dict[Key, Best]:
        """The best rates of one half of the networks."""
        return {key: best for key, best in self.best.items() if self.tasks[key[0]].half == name}

    def probes(self, step: int) -> list[Sample]:
        """The centres of the short runs at a step; -1 from a new initialisation."""
        found = []
        for (task, optimizer), best in self.best.items():
            entry = self.runs.get((task, optimizer, step), {})
            if entry.get("centre") is None:
                continue
            octave = math.log2(entry["centre"] / START[optimizer])
            reliable = bool(entry["bracketed"]) and entry["gain"] is not None and entry["gain"] >= LEAST_GAIN
            found.append(Sample(self.tasks[task], optimizer, best.octave, octave, reliable))
        return found

    def estimates(self, name: str, step: int) -> list[Sample]:
        """One estimate without training at a step."""
        found = []
        for (task, optimizer), best in self.best.items():
            rate = self.local.get((task, optimizer, step), {}).get("estimates", {}).get(name)
            if rate:
                octave = math.log2(rate / START[optimizer])
                found.append(Sample(self.tasks[task], optimizer, best.octave, octave))
        return found


def halves(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Those of the calibration half, and those held out."""
    return (
        [sample for sample in samples if sample.task.half == "calibration"],
        [sample for sample in samples if sample.task.half == "held-out"],
    )


def report(study: Study) -> None:
    """Prints the tables."""
    _best_rates(study)
    typical = _typical(study)
    _probe(study, "probe-init", (-1,), typical)
    _probe(study, "probe", tuple(step for step in CHECKPOINT_STEPS if step), typical)
    _local(study)


def _best_rates(study: Study) -> None:
    print(
        "\n## Best rates\n\n| optimizer | networks | geometric mean | standard deviation, octaves | one seed | half |"
    )
    print("|---|---|---|---|---|---|")
    for name in START:
        found = [best for (_, optimizer), best in study.best.items() if optimizer == name]
        if not found:
            continue
        octaves = [best.octave for best in found]
        seeds = [abs(best.by_seed[0] - sum(best.by_seed[1:]) / 2) for best in found]
        half = [best.half - best.octave for best in found]
        mean = START[name] * 2 ** float(np.mean(octaves))
        noise = f"{np.std(octaves):.2f} | {np.mean(seeds):.2f} | {np.mean(half):+.2f}"
        print(f"| {name} | {len(found)} | {mean:.3g} | {noise} |")


def _typical(study: Study) -> dict[str, float]:
    known = study.half("calibration")
    typical = {
        name: float(np.mean([best.octave for (_, optimizer), best in known.items() if optimizer == name]))
        for name in sorted({optimizer for _, optimizer in known})
    }
    print("\n## Typical rates\n")
    print({name: float(f"{START[name] * 2**octave:.3g}") for name, octave in typical.items()})
    samples = [Sample(study.tasks[task], name, best.octave, 0.0) for (task, name), best in study.best.items()]
    _table("typical", samples, lambda sample: typical[sample.optimizer])
    return typical


def _probe(study: Study, name: str, steps: tuple[int, ...], typical: dict[str, float]) -> None:
    samples = [sample for step in steps for sample in study.probes(step)]
    if not samples:
        return
    fitted = fit([sample for sample in halves(samples)[0] if sample.reliable])
    absolute = {key: off + (1.0 - fitted.exponent) * math.log2(START[key]) for key, off in fitted.offsets.items()}
    print(f"\n## {name}\n\nexponent {fitted.exponent:.2f}, offsets", end=" ")
    print({key: round(offset, 2) for key, offset in absolute.items()})
    kept = [sample for sample in samples if sample.reliable]
    rejected = [sample for sample in samples if not sample.reliable]
    print(f"reliable: {len(kept)} of {len(samples)}")
    _table(f"{name}, reliable", kept, fitted.octave)
    _table(f"{name}, not reliable", rejected, fitted.octave)
    _table("typical where the probe is reliable", kept, lambda sample: typical[sample.optimizer])
    _table("typical where it is not", rejected, lambda sample: typical[sample.optimizer])
    for step in steps if len(steps) > 1 else ():
        at = study.probes(step)
        _table(f"{name} at step {step}, reliable", [s for s in at if s.reliable], fitted.octave)
    for words, half in zip(("calibration", "held-out"), halves(kept), strict=True):
        sizes = np.abs(errors(half, fitted.octave))
        print(f"nine of ten {words} errors are below {np.quantile(sizes, 0.9) if half else math.nan:.2f} octaves")
    for optimizer in START:
        chosen = [sample for sample in halves(kept)[1] if sample.optimizer == optimizer]
        print(f"| {optimizer}, held out | {summary(errors(chosen, fitted.octave))} |")


def _local(study: Study) -> None:
    print("\n## Without training\n")
    for step in CHECKPOINT_STEPS:
        for name in LOCAL:
            samples = study.estimates(name, step)
            if not samples:
                continue
            known, apart = halves(samples)
            plain, fitted = errors(apart, lambda sample: sample.octave), errors(apart, fit(known).octave)
            print(f"| {step} | {name} | {summary(plain)} | {np.mean(np.abs(fitted or [math.nan])):.2f} |")


def _table(name: str, samples: Sequence[Sample], predict: Callable[[Sample], float]) -> None:
    calibration, apart = halves(samples)
    unusual = [sample for sample in apart if sample.task.unusual]
    for words, chosen in (("calibration", calibration), ("held out", apart), ("held out, unusual scale", unusual)):
        print(f"| {name} | {words} | {summary(errors(chosen, predict))} |")
