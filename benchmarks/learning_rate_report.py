"""The tables of docs/learning-rate-study.md, from the grid and the short runs that the learning-rate study leaves."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from learning_rate_pairs import PARTS, Pair, all_pairs
from learning_rate_probes import BUDGETS, optimizer_of
from learning_rate_results import Results, before_of, grid_of, short_runs_of

from fromage_cli.optimizers.typical_rates import calibration
from fromage_cli.theory.rate_calibration import RELIABLE, Conclusion, WholeRun, conclude
from fromage_cli.theory.rate_curve import ShortRun, best_rate

WORST = 1.5
"""Times the first loss that a run without an end counts as."""
DEFAULTS = {"adamw": 1e-3, "adam": 1e-3, "sgd": 1e-3, "momentum": 1e-3, "fromage": 1e-2}
"""Of the optimizers' classes."""


@dataclass(frozen=True)
class Truth:
    """What whole runs of a pair lose at each rate."""

    octaves: tuple[float, ...]
    losses: tuple[float, ...]
    """Means over the seeds; where only one seed was run, it plus what the others differ from it on average."""
    start: float

    @property
    def best(self) -> float:
        """log2 of the best rate: the lowest point of a parabola through the least three, within half an octave."""
        place = self.losses.index(min(self.losses))
        if place in (0, len(self.losses) - 1):
            return self.octaves[place]
        left, middle, right = self.losses[place - 1 : place + 2]
        bend = left - 2.0 * middle + right
        return self.octaves[place] + (max(-0.5, min(0.5, 0.5 * (left - right) / bend)) if bend > 0.0 else 0.0)

    def lost(self, octave: float) -> float:
        """(loss - least) / (start - least), by straight lines between rates and constant beyond them."""
        at = min(max(octave, self.octaves[0]), self.octaves[-1])
        place = min(int(at - self.octaves[0]), len(self.octaves) - 2)
        share = at - self.octaves[place]
        loss = (1.0 - share) * self.losses[place] + share * self.losses[place + 1]
        return (loss - min(self.losses)) / (self.start - min(self.losses))


def truths(grid: Results) -> dict[str, Truth]:
    """Of every pair whose search is finished."""
    by_pair: dict[str, dict[int, dict[int, dict[str, float]]]] = {}
    for (pair, octave, seed), entry in grid.found.items():
        by_pair.setdefault(pair, {}).setdefault(octave, {})[seed] = entry
    found = {}
    for pair, by_octave in by_pair.items():
        if sum(len(seeds) > 1 for seeds in by_octave.values()) < 5:
            continue
        start = by_octave[min(by_octave)][0]["start"]
        ends = {o: [min(e["end"], WORST * start) for e in seeds.values()] for o, seeds in sorted(by_octave.items())}
        twice = [(pair[1] - pair[0]) / 2.0 for pair in ends.values() if len(pair) > 1 and max(pair) < WORST * start]
        shift = math.fsum(twice) / len(twice) if twice else 0.0
        losses = [math.fsum(each) / len(each) + (shift if len(each) == 1 else 0.0) for each in ends.values()]
        rates = [math.log2(by_octave[octave][0]["rate"]) for octave in ends]
        found[pair] = Truth(tuple(rates), tuple(losses), start)
    return found


@dataclass(frozen=True)
class Case:
    """One pair with its truth and its short runs."""

    pair: Pair
    truth: Truth
    runs: tuple[ShortRun, ...]
    starts: tuple[float, ...]

    parts: bool
    """Whether they trained on parts of a batch."""
    before: float | None
    """The rate that the program recommended before this study."""

    @cached_property
    def concluded(self) -> Conclusion:
        """What the program says."""
        pair = self.pair
        peak = pair.guess if pair.made else None
        whole = WholeRun(pair.steps - pair.made, peak, new=not pair.made, parts=self.parts)
        return conclude(self.runs, self.starts, calibration(optimizer_of(pair)), whole)


Predict = Callable[[Case], float | None]
"""A rate for a case, in octaves."""


def cases(folder: Path, data: Path, variant: str) -> list[Case]:
    """Every pair that has both."""
    known = truths(grid_of(folder))
    probes, before = short_runs_of(folder).found, before_of(folder).found
    found = []
    for pair in all_pairs(data):
        entry = probes.get((pair.key, variant))
        if pair.key in known and entry is not None:
            runs = tuple(ShortRun(*run) for run in entry["runs"])
            old = before.get((pair.key,)) if variant != "cut" else None
            rate = None if old is None else float(old["recommended"])
            found.append(Case(pair, known[pair.key], runs, tuple(entry["start_losses"]), variant == "cut", rate))
    return found


def typical(case: Case) -> float | None:
    """The typical rate alone."""
    found = calibration(optimizer_of(case.pair))
    return None if found is None else math.log2(found.typical)


def default(case: Case) -> float:
    """Torch's default rate."""
    return math.log2(DEFAULTS[case.pair.optimizer])


def before(case: Case) -> float | None:
    """What the program recommended before."""
    return None if case.before is None else math.log2(case.before)


def alone(case: Case) -> float | None:
    """The centre of the short runs."""
    centre = best_rate(case.runs, case.starts)
    return None if centre is None else math.log2(centre)


def together(case: Case) -> float | None:
    """What the program recommends."""
    rate = case.concluded.learning_rate
    return None if rate is None else math.log2(rate)


PREDICTIONS: dict[str, Predict] = {
    "default": default,
    "typical": typical,
    "before": before,
    "short runs alone": alone,
    "recommended": together,
}


def table(title: str, rows: Iterable[Sequence[object]], *columns: str) -> None:
    """A table in Markdown."""
    print(f"\n## {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def summary(found: Sequence[Case], predict: Predict) -> list[object]:
    """Errors in octaves and in the lost part of the fall."""
    pairs = [(case, octave) for case in found if (octave := predict(case)) is not None]
    if not pairs:
        return [0, *["–"] * 6]
    octaves = [octave - case.truth.best for case, octave in pairs]
    lost = [case.truth.lost(octave) for case, octave in pairs]
    return [
        len(pairs),
        f"{math.fsum(map(abs, octaves)) / len(pairs):.2f}",
        f"{math.fsum(octaves) / len(pairs):+.2f}",
        f"{max(map(abs, octaves)):.1f}",
        f"{math.fsum(lost) / len(pairs):.1%}",
        f"{max(lost):.1%}",
        f"{sum(each <= RELIABLE for each in lost)} of {len(pairs)}",
    ]


def calls(found: Sequence[Case]) -> list[object]:
    """How often the program calls its rate reliable and is right, and how often its interval holds the best rate."""
    concluded = [(case, case.concluded) for case in found]
    said = [(case, one) for case, one in concluded if one.reliable and one.learning_rate is not None]
    right = sum(case.truth.lost(math.log2(one.learning_rate or 1.0)) <= RELIABLE for case, one in said)
    ranges = [(case, one.low, one.high) for case, one in concluded if one.low is not None and one.high is not None]
    inside = sum(math.log2(low) <= case.truth.best <= math.log2(high) for case, low, high in ranges)
    widths = [math.log2(high / low) for _, low, high in ranges]
    width = f"{math.fsum(widths) / len(widths):.1f}" if widths else "–"
    return [len(found), f"{len(said)}", f"{right} of {len(said)}", f"{inside} of {len(ranges)}", width]


SUMMARY = ("rate", "pairs", "mean error, octaves", "bias", "largest", "lost, mean", "lost, most", "at most 5 % lost")


def report(folder: Path, data: Path) -> None:
    """All tables."""
    for variant in BUDGETS:
        whole = cases(folder, data, variant)
        for part in PARTS:
            found = [case for case in whole if case.pair.part == part]
            rows = [[name, *summary(found, predict)] for name, predict in PREDICTIONS.items()]
            rows = [row for row in rows if row[1]]
            if rows:
                table(f"{part}, {variant}", rows, *SUMMARY)
        groups: dict[str, list[Case]] = {}
        for case in whole:
            for key in (case.pair.kind, case.pair.optimizer, case.pair.schedule, f"{case.pair.steps} steps"):
                groups.setdefault(f"{case.pair.part}, {key}", []).append(case)
            groups.setdefault(case.pair.part, []).append(case)
        rows = [[name, *summary(found, together), *calls(found)[1:]] for name, found in sorted(groups.items())]
        table(
            f"By kind, {variant}", rows, *SUMMARY, "called reliable", "rightly", "in the interval", "its width, octaves"
        )
    best = cases(folder, data, "batches")
    rows = []
    for case in best:
        one = case.concluded
        rate = one.learning_rate
        lost = "–" if rate is None else f"{case.truth.lost(math.log2(rate)):.1%}"
        said = "–" if one.regret is None else f"{one.regret:.1%}"
        shown = [f"{value:.2g}" if value else "–" for value in (2.0**case.truth.best, rate, one.low, one.high)]
        rows.append([case.pair.key, case.pair.part, *shown, said, lost])
    table("Pairs", rows, "pair", "part", "best", "recommended", "low", "high", "expected loss", "lost")
