"""Best rates, the constants fitted to one half of the networks, and the error of every estimate."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from learning_rate_networks import Task
from learning_rate_training import START, Results

from fromage_cli.theory.rate_calibration import LEAST_GAIN, MOST_SPREAD

LEARNED = 0.9
"""A network counts as trainable where its best final loss is below this part of the initial one."""
BESIDE = 2
"""Octaves on each side of the best one that the parabola is fitted to."""
RIDGE = 0.5
THRICE = math.log2(3.0)
PARTS = ("calibration", "held-out", "unseen")
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

    @property
    def variance(self) -> float:
        """Of the rate itself, as three other seeds would give another; octaves squared."""
        return float(np.var(self.by_seed, ddof=1)) / len(self.by_seed)

    def excess(self, octave: float) -> float:
        """The final loss at a rate over the least, by interpolation; beyond the grid that of its end."""
        capped = np.minimum(self.logarithms, min(self.logarithms) + 5.0)
        return math.exp(float(np.interp(octave, self.octaves, capped)) - min(self.logarithms))


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
    best: Best
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
    matrix, best = np.array(rows), np.array([s.best.octave for s in samples])
    ridge = np.diag([1e-6] * len(names) + [RIDGE])
    *offsets, exponent = np.linalg.solve(matrix.T @ matrix + ridge, matrix.T @ best)
    return Fit(dict(zip(names, map(float, offsets), strict=True)), float(exponent))


def errors(samples: Iterable[Sample], predict: Callable[[Sample], float]) -> list[float]:
    """Octaves above the best rate."""
    return [predict(sample) - sample.best.octave for sample in samples]


class Study:
    """Everything that was measured, and the tables made of it."""

    def __init__(self, tasks: Sequence[Task], folder: Path) -> None:
        self.tasks = {task.name: task for task in tasks}
        best = best_rates(Results(folder / "grid.jsonl", ("task", "optimizer", "octave", "seed")))
        self.best = {key: found for key, found in best.items() if key[0] in self.tasks}
        self.runs, self.local, self.finder = (
            self._found(folder / f"{name}.jsonl") for name in ("short-runs", "estimates", "finder")
        )

    def _found(self, path: Path) -> dict[tuple, dict]:
        """The lines of a file on these tasks, by task, optimizer and step."""
        found = Results(path, ("task", "optimizer", "step")).found
        return {key: entry for key, entry in found.items() if key[0] in self.tasks}

    def typical(self) -> list[Sample]:
        """Every best rate beside nothing."""
        return [Sample(self.tasks[task], name, best, 0.0) for (task, name), best in self.best.items()]

    def probes(self, step: int, rule: Callable[[dict], bool] | None = None) -> list[Sample]:
        """The centres of the short runs at a step, -1 from a new initialisation; `rule` tells the reliable ones."""
        found = []
        for (task, optimizer), best in self.best.items():
            entry = self.runs.get((task, optimizer, step), {})
            if entry.get("centre") is not None:
                octave = math.log2(entry["centre"] / START[optimizer])
                found.append(Sample(self.tasks[task], optimizer, best, octave, (rule or reliable)(entry)))
        return found

    def estimates(self, name: str, step: int) -> list[Sample]:
        """One estimate without training, or of the range test, at a step."""
        found = []
        source = self.finder if name.startswith("finder") else self.local
        for (task, optimizer), best in self.best.items():
            rate = source.get((task, optimizer, step), {}).get("estimates", {}).get(name)
            if rate:
                found.append(Sample(self.tasks[task], optimizer, best, math.log2(rate / START[optimizer])))
        return found


def reliable(entry: dict) -> bool:
    """Whether the program calls short runs with these losses reliable."""
    gain = entry["gain"]
    return bool(entry["bracketed"]) and gain is not None and gain >= LEAST_GAIN and entry["spread"] <= MOST_SPREAD


def of_part(samples: Iterable[Sample], part: str) -> list[Sample]:
    """Those of the calibration half, those held out, or those that no choice has seen."""
    return [sample for sample in samples if sample.task.part == part]
