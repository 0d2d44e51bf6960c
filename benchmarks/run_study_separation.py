"""Which quantity tells healthy from sick: the rows of the results, thresholds, and the severity that counts support."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from run_study_measuring import QUANTITIES
from run_study_recipes import RECIPES

FACTS = {
    "bundle-file-changed": "fail",
    "bundle-loss-differs": "fail",
    "bundle-without-graph": "warn",
    "self-test-failed": "fail",
    "attention-second-derivative-wrong": "fail",
    "attention-backend-wrong": "warn",
    "temporary-directory-not-usable": "warn",
    "files-differ": "fail",
    "check-ended-in-error": "fail",
    "package-not-usable": "fail",
    "package-too-old": "warn",
    "threads-exceed-processors": "warn",
    "device-not-usable": "fail",
    "gpu-not-seen": "warn",
    "ranks-not-readable": "fail",
    "configuration-wrong": "fail",
    "setting-without-effect": "warn",
    "configuration-not-trusted": "warn",
    "tensor-not-finite": "fail",
    "norm-not-finite": "fail",
    "distance-not-finite": "fail",
    "moments-not-finite": "fail",
    "moments-impossible": "warn",
    "update-counts-differ": "warn",
    "update-count-not-the-files": "warn",
    "master-differs": "warn",
    "master-rebuilt": "warn",
    "replicas-differ": "info, warn",
    "updates-lost": "warn",
    "decay-lost": "warn",
    "layer-does-not-move": "warn",
    "loss-not-finite": "fail",
    "optimizer-restarted": "warn",
    "updates-and-steps-differ": "warn",
    "moments-not-updated": "warn",
    "moments-not-continued": "warn",
    "weights-not-continued": "info, warn",
    "layer-frozen": "warn",
    "rate-rises-again": "warn",
    "rate-jumps": "warn",
    "rate-not-continued": "warn",
    "rates-disagree": "info, warn",
    "gradient-is-not-the-losses": "warn",
    "log-not-finite": "warn",
    "pickle-runs-code": "warn",
    "pickle-names-unknown": "warn",
    "not-all-read": "warn",
    "tensors-unpaired": "warn",
    "one-hot-targets": "warn",
    "noisy-gradient": "info, warn",
    "grid-starts-late": "warn",
    "schedule-mismatch": "warn",
    "scale-invariance-untested": "warn",
    "gradient-is-rounding": "info",
    "grid-too-coarse": "info",
    "grid-wide": "info",
    "loss-overflows": "info",
    "loss-adds-up": "info",
    "no-second-derivative": "info",
    "one-draw-of-many": "info",
    "steps-too-small": "info",
    "ties-differ": "info",
    "dtypes-differ": "info",
    "tensors-equal": "info",
    "layer-unmoved": "info",
    "rotation-above-law": "info",
    "forecast-doubtful": "info",
    "gradient-is-zero": "info",
    "layers-without-size": "info",
    "entries-without-gradient": "info",
    "units-without-size": "info",
    "not-scale-invariant": "info",
    "invariant-with-bias": "info",
    "relaxation-too-short": "info",
    "schedule-unknown": "info",
    "rate-not-measured": "info",
    "bias-dead": "info",
}
"""Codes that state a fact about files, numerics or the reach of a number, and their severity."""
VERDICTS = {
    "units-dead": "warn",
    "batch-statistics-stale": "warn",
    "no-better-than-guessing": "info, warn",
    "loss-differs-from-held-out": "info, warn",
    "breakdown-early": "info",
    "step-ascends": "info",
    "layer-out-of-line": "info, warn",
    "layer-large": "info, warn",
    "group-rates-differ": "info",
    "loss-rises": "warn, fail",
    "layer-forgotten": "warn",
    "decay-too-strong": "warn",
    "grows-without-decay": "warn",
    "tensor-still": "info",
    "curvature-breaks-earlier": "info",
    "layer-turned": "info",
    "tensor-all-zero": "info",
    "no-equilibrium": "info",
    "far-from-equilibrium": "info",
    "rotation-off": "info",
    "norm-far-from-first": "warn",
    "norm-jumps": "info",
    "norm-overflows": "warn",
    "norm-follows-law": "info",
    "invariant-layer-grows": "info",
    "rows-dead": "info",
    "above-threshold": "info, warn",
    "catapult": "info",
    "rate-depends-on-architecture": "warn",
    "edge-of-stability": "info",
    "quadratic-model-spikes": "warn",
    "quadratic-model-rises": "warn",
    "quadratic-model-diverges": "warn",
    "batch-sharpness-high": "info",
    "first-step-rises": "info",
    "no-positive-curvature": "info",
    "rate-not-stable": "info, warn",
    "rate-above-limit": "info",
    "verification-rises": "warn",
    "no-certain-step": "info",
    "descends-on-own-rows-only": "info",
    "step-uphill": "info",
    "noise-dominates": "info",
    "certain-together-only": "info",
    "recommended-above-critical": "info",
    "attention-logits-large": "info",
    "attention-entropy-collapsed": "info, warn",
    "logits-drift": "info",
}
"""Codes that can be read as a verdict on the training, and their severity."""
LOW = {
    "trust eta",
    "aggregate trust eta",
    "linear trust eta",
    "first increase",
    "own trust eta",
    "own aggregate trust eta",
}
"""Quantities of which small numbers would mean that training is sick; of all others it is large ones."""
TOO_LARGE = {
    "rate too high",
    "the rate jumps",
    "no warm-up",
    "one layer begins 10 × too large",
    "moments lost",
    "fine-tuning at 25 × the rate",
}
"""Kinds of sick runs whose steps are too large for where the network is."""
SEVERITIES = ("info", "warn", "fail")
CHANCE = 0.01
"""One-sided probability of Fisher's exact test below which a code is more frequent in sick runs."""
FALSE_ALARMS = 0.1
"""Share of healthy runs in which a warning may appear."""


@dataclass(frozen=True)
class Row:
    """One checkpoint of the results."""

    run: str
    half: str
    kind: str
    sick: bool
    numbers: dict[str, float]
    findings: dict[str, str]
    """The gravest severity of each code."""
    stopped: frozenset[str]
    """Commands that `--fail-on warn` ends with an error status."""
    cells: dict[str, str]


def load(path: Path) -> list[Row]:
    """Return the checkpoints that count: all of healthy runs, of sick ones those from where they are sick."""
    with path.open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    order = [recipe.name for recipe in RECIPES]
    cells.sort(key=lambda each: (order.index(each["run"]), int(each["step"])))
    return [_row(each) for each in cells if not each["kind"] or each["sick"] == "1"]


def _row(cells: dict[str, str]) -> Row:
    found: dict[str, str] = {}
    stopped = set()
    for word in cells["findings"].split():
        name, severity = word.split(":")[:2]
        command, code = name.split("/")
        stopped |= {command} if severity in ("warn", "fail") else set()
        found[code] = max(found.get(code, severity), severity, key=("info", "warn", "fail", "error").index)
    numbers = {name: float(cells[name]) for name in QUANTITIES if cells.get(name)}
    if cells["step"] == "0":
        numbers.pop("loss", None)  # every network begins near guessing
    return Row(
        cells["run"], cells["half"], cells["kind"], bool(cells["kind"]), numbers, found, frozenset(stopped), cells
    )


def by_run(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group the checkpoints by run."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.run].append(row)
    return groups


def runs_of(rows: Iterable[Row]) -> tuple[int, int]:
    """Return how many healthy and how many sick runs these checkpoints are of."""
    sick = [group[0].sick for group in by_run(rows).values()]
    return sick.count(False), sick.count(True)


def fisher(healthy: int, of_healthy: int, sick: int, of_sick: int) -> float:
    """Return how probable it is, by chance, that at least `sick` of all marked runs are sick ones."""
    marked, total = healthy + sick, of_healthy + of_sick
    ways = [math.comb(of_sick, k) * math.comb(of_healthy, marked - k) for k in range(sick, min(marked, of_sick) + 1)]
    return sum(ways) / math.comb(total, marked)


@dataclass(frozen=True)
class Separator:
    """A quantity with a threshold: a run is called sick where any of its checkpoints is beyond it."""

    name: str
    threshold: float

    def flags(self, row: Row) -> bool:
        """Whether this checkpoint is beyond the threshold; one without the number is not."""
        number = row.numbers.get(self.name)
        return number is not None and (number < self.threshold if self.name in LOW else number > self.threshold)

    def counts(self, rows: Sequence[Row]) -> tuple[int, int]:
        """How many healthy and how many sick runs are flagged."""
        flagged = [group[0].sick for group in by_run(rows).values() if any(map(self.flags, group))]
        return flagged.count(False), flagged.count(True)

    def __str__(self) -> str:
        return f"{'<' if self.name in LOW else '>'} {self.threshold:.3g}"


def extremes(rows: Sequence[Row], name: str) -> dict[bool, list[float]]:
    """Return the number of each run that looks sickest, of runs that have one, by whether the run is sick."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for group in by_run(rows).values():
        numbers = [row.numbers[name] for row in group if name in row.numbers]
        if numbers:
            found[group[0].sick].append(min(numbers) if name in LOW else max(numbers))
    return found


def choose(rows: Sequence[Row], name: str) -> Separator | None:
    """Return the threshold with the best share of hits less share of false alarms among these runs.

    Among equals it has the fewest false alarms, then the widest gap to the next runs.
    """
    healthy, sick = runs_of(rows)
    best: tuple[tuple[float, float, float], Separator] | None = None
    ends = extremes(rows, name)
    for low, high in pairwise(sorted({*ends[False], *ends[True]})):
        separator = Separator(name, math.sqrt(low * high) if low > 0.0 else 0.5 * (low + high))
        wrong, right = separator.counts(rows)
        gap = math.log(high / low) if low > 0.0 else 0.0
        score = (right / max(1, sick) - wrong / max(1, healthy), -wrong, gap)
        if best is None or score > best[0]:
            best = score, separator
    return best[1] if best else None


def area(rows: Sequence[Row], name: str) -> float:
    """Return how often a sick run's extreme looks sicker than a healthy one's; .5 says nothing."""
    ends = extremes(rows, name)
    pairs = [(a, b) for a in ends[False] for b in ends[True]]
    wins = sum(0.5 if a == b else float((b < a) == (name in LOW)) for a, b in pairs)
    return wins / len(pairs) if pairs else 0.0


def chances_of(fired: Sequence[int], of: Sequence[int]) -> list[float]:
    """Return how probable so many sick runs, and so many with too large steps, would be if health had no part in it.

    The counts are of healthy runs, of sick ones, and of those with too large steps; empty where nothing fired.
    """
    pairs = zip(fired[1:], of[1:], strict=True)
    return [fisher(fired[0], of[0], count, total) for count, total in pairs] if sum(fired) else []


def severity(now: str, fired: Sequence[int], of: Sequence[int]) -> str:
    """Return the severity that the counts support.

    It is `info` unless the code is more frequent in either group of sick runs and rare in healthy ones; `fail` is left
    to those that have it now and fire in no healthy run.
    """
    if min(chances_of(fired, of), default=1.0) >= CHANCE or fired[0] > FALSE_ALARMS * of[0]:
        return "info"
    return "fail" if now == "fail" and not fired[0] else "warn"
