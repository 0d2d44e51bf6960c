"""The tables of docs/regime-study.md, from the file that the regime study leaves."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

KINDS = {"f": "falls", "c": "comes back", "u": "stays up", "x": "diverges"}
SURVIVES = "fc"
COURSE = re.compile(r"([fcux])(?:([\d.e+-]+)>)?([\d.e+-]+)(?:@(\d+))?")
LOSSES = {"squared": "squared error", "entropy": "cross-entropy"}
DEAD = 0.98
"""Of the loss of the best constant output: a run that ends above it has learned nothing from its inputs."""
ALLOWED = 0.05
"""Of the runs at a ratio: how many may contradict what is said of it nearly always."""
BANDS = (("below 1", 0.0, 1.0), ("1 to 2", 1.0, 2.0), ("2 to 6", 2.0, 6.0), ("6 and above", 6.0, 99.0))

FIRST_STEP = {"descent": 1.0, "momentum .5": 1.5, "momentum .9": 1.9, "nesterov .9": 1.9**2 / 2.8, "adam": 19.0}
"""What the ratio would be if the first step, which has no past, were one of plain descent."""


@dataclass(frozen=True)
class Run:
    """One run, and what the quadratic model did at its rate."""

    network: str
    loss: str
    optimizer: str
    ratio: float
    kind: str
    """A letter of KINDS."""
    highest: float
    """Over the first loss, as `last`; infinite where a run left the numbers."""
    last: float
    step: int
    """Of the highest loss."""
    end: float
    """The last loss over that of the best constant output."""
    model: str
    """First letter of the simulated training's outcome; empty where none was made."""

    @property
    def large(self) -> bool:
        """Whether the first outputs are of order 1, and not small as torch's own initialisation makes them."""
        return self.network.endswith(("normal", "tangent"))


def runs_of(rows: Iterable[dict[str, str]]) -> list[Run]:
    """Every run of the file."""
    found = []
    for row in rows:
        starts = [float(start) for start in row["start"].split()]
        for ratio in (float(column) for column, cell in row.items() if cell and re.fullmatch(r"[\d.]+", column)):
            words = row[f"{ratio:g}"].split()
            courses, model = words[: len(starts)], "".join(words[len(starts) :])
            for seed, (text, start) in enumerate(zip(courses, starts, strict=True)):
                run = _run(text, start / float(row["guess"]))
                outcome = model[seed] if seed < len(model) else ""
                found.append(Run(row["network"], row["loss"], row["optimizer"], ratio, *run, outcome))
    return found


def _run(text: str, start: float) -> tuple[str, float, float, int, float]:
    """Kind, highest, last, step and end from a course in short; `start`: over the best constant output's loss."""
    matched = COURSE.fullmatch(text)
    assert matched is not None, text
    kind, highest, last, step = matched.groups()
    if kind == "x" and highest is None:
        return kind, float("inf"), float("inf"), int(last), float("inf")
    return kind, float(highest or 1.0), float(last), int(step or 0), float(last) * start


def report(rows: Sequence[dict[str, str]]) -> None:
    """Prints the tables."""
    runs = runs_of(rows)
    ratios = sorted({run.ratio for run in runs})
    optimizers, losses = list(dict.fromkeys(run.optimizer for run in runs)), dict.fromkeys(run.loss for run in runs)
    print(f"{len(runs)} runs of {len({(run.network, run.loss) for run in runs})} networks with their losses.")
    _limits(runs, optimizers, losses)
    _claims(runs, optimizers, losses)
    _bands(runs, optimizers, losses)
    for loss in losses:
        _shares(f"All networks, {LOSSES[loss]}", "optimizer", runs, optimizers, ratios, loss=loss)
    _first_step(runs, losses)
    _quadratic(runs, optimizers, losses)
    _dead(runs, optimizers, losses)
    for optimizer in optimizers:
        for loss in losses:
            networks = list(dict.fromkeys(run.network for run in runs if run.loss == loss))
            title = f"{optimizer.capitalize()}, {LOSSES[loss]}"
            _shares(title, "network", runs, networks, ratios, optimizer=optimizer, loss=loss)


def _head(title: str, columns: Sequence[object]) -> None:
    print(f"\n## {title}\n")
    _row(columns)
    _row(["---"] * len(columns))


def _row(cells: Iterable[object]) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


def _chosen(runs: Iterable[Run], **wanted: object) -> list[Run]:
    return [run for run in runs if all(getattr(run, name) == value for name, value in wanted.items())]


def _shares(
    title: str, field: str, runs: Sequence[Run], names: Sequence[str], ratios: Sequence[float], **wanted: object
) -> None:
    """How many runs of each name went which way, by ratio: f falls, c comes back, u stays up, x diverges."""
    _head(title, [field, *(f"{ratio:g}" for ratio in ratios)])
    for name in names:
        mine = _chosen(runs, **{field: name}, **wanted)
        kinds = [Counter(run.kind for run in mine if run.ratio == ratio) for ratio in ratios]
        _row([name, *(" ".join(f"{k}{kind[k]}" for k in KINDS if kind[k]) or "–" for kind in kinds)])


def _limits(runs: Sequence[Run], optimizers: Sequence[str], losses: Iterable[str]) -> None:
    """Up to which ratio all fall, up to which all survive, and from which on all diverge; how many runs say so."""
    columns = ["start", "loss", "optimizer", "networks", "all fall up to", "all survive up to", "all diverge from"]
    _head("Limits", columns)
    for words, fits in GROUPS:
        for loss in losses:
            for optimizer in optimizers:
                mine = [run for run in _chosen(runs, loss=loss, optimizer=optimizer) if fits(run)]
                if mine:
                    networks = len({run.network for run in mine})
                    limits = _up_to(mine, "f"), _up_to(mine, SURVIVES), _from(mine)
                    _row([words, LOSSES[loss], optimizer, networks, *limits])


GROUPS: tuple[tuple[str, Callable[[Run], bool]], ...] = (
    ("large", lambda run: run.large),
    ("torch's", lambda run: not run.large),
    ("all", lambda run: True),
)


def _up_to(runs: Sequence[Run], kinds: str, share: float = 0.0) -> str:
    """The largest ratio up to which all runs but a share are of these kinds, and how many of how many are not."""
    return _farthest(runs, kinds, share, sorted({run.ratio for run in runs}))


def _from(runs: Sequence[Run], share: float = 0.0) -> str:
    """The smallest ratio from which on all runs but a share diverge, and how many of how many do not."""
    return _farthest(runs, "x", share, sorted({run.ratio for run in runs}, reverse=True))


def _farthest(runs: Sequence[Run], kinds: str, share: float, ratios: Sequence[float]) -> str:
    found, against, count = "–", 0, 0
    for ratio in ratios:
        some = _chosen(runs, ratio=ratio)
        wrong = sum(run.kind not in kinds for run in some)
        if wrong > share * len(some):
            break
        against, count = against + wrong, count + len(some)
        found = f"{ratio:g} ({against} of {count})"
    return found


def _claims(runs: Sequence[Run], optimizers: Sequence[str], losses: Iterable[str]) -> None:
    """What may be said of an optimizer and a loss over all networks: without exception, and with one in twenty."""
    columns = [f"{words} {how}" for words in ("fall up to", "survive up to", "diverge from") for how in ("all", "95 %")]
    _head("Claims", ["optimizer", "loss", *columns])
    for optimizer in optimizers:
        for loss in losses:
            mine = _chosen(runs, optimizer=optimizer, loss=loss)
            shares = (0.0, ALLOWED)
            cells = [_up_to(mine, kinds, share) for kinds in ("f", SURVIVES) for share in shares]
            _row([optimizer, LOSSES[loss], *cells, *(_from(mine, share) for share in shares)])


def _bands(runs: Sequence[Run], optimizers: Sequence[str], losses: Iterable[str]) -> None:
    """Of each band, how many runs fall, survive and diverge."""
    columns = ["start", "loss", "optimizer", *(f"{words}: fall, survive, diverge, of" for words, *_ in BANDS)]
    _head("Bands", columns)
    for words, fits in GROUPS:
        for loss in losses:
            for optimizer in optimizers:
                mine = [run for run in _chosen(runs, loss=loss, optimizer=optimizer) if fits(run)]
                cells = []
                for _, low, high in BANDS:
                    kinds = Counter(run.kind for run in mine if low <= run.ratio < high)
                    cells.append(f"{kinds['f']}, {kinds['f'] + kinds['c']}, {kinds['x']}, {kinds.total()}")
                if mine:
                    _row([words, LOSSES[loss], optimizer, *cells])


def _first_step(runs: Sequence[Run], losses: Iterable[str]) -> None:
    """How many runs fall and survive on either side of the ratio from which on the first step overshoots."""
    columns = [
        "optimizer",
        "loss",
        "first step overshoots from",
        "below: fall, survive, of",
        "above: fall, survive, of",
    ]
    _head("The first step", columns)
    for optimizer, factor in FIRST_STEP.items():
        for loss in losses:
            mine = _chosen(runs, optimizer=optimizer, loss=loss)
            cells = []
            for above in (False, True):
                kinds = Counter(run.kind for run in mine if (run.ratio * factor > 1.0) == above)
                cells.append(f"{kinds['f']}, {kinds['f'] + kinds['c']}, {kinds.total()}")
            _row([optimizer, LOSSES[loss], f"{1.0 / factor:.2g}", *cells])


def _quadratic(runs: Sequence[Run], optimizers: Sequence[str], losses: Iterable[str]) -> None:
    """What the networks did where the quadratic model did this."""
    columns = ["optimizer", "loss", "of those that diverge, model: diverges", "of those that survive, model: diverges"]
    columns += [f"model {name}: networks diverge" for name in ("falls", "spikes", "rises", "diverges")]
    _head("The quadratic model", columns)
    for optimizer in optimizers:
        for loss in losses:
            mine = [run for run in _chosen(runs, optimizer=optimizer, loss=loss) if run.model]
            cells = []
            for diverges in (True, False):
                some = [run for run in mine if (run.kind == "x") == diverges]
                cells.append(f"{len(_chosen(some, model='d'))} of {len(some)}")
            for letter in "fsrd":
                some = _chosen(mine, model=letter)
                cells.append(f"{len(_chosen(some, kind='x'))} of {len(some)}")
            _row([optimizer, LOSSES[loss], *cells])


def _dead(runs: Sequence[Run], optimizers: Sequence[str], losses: Iterable[str]) -> None:
    """Of the runs that come back, how many end no better than a constant output; and when runs diverge late."""
    _head("What coming back is worth", ["optimizer", "loss", "come back", "of these dead", "fall", "of these dead"])
    for optimizer in optimizers:
        for loss in losses:
            cells: list[object] = []
            for kind in "cf":
                some = _chosen(runs, optimizer=optimizer, loss=loss, kind=kind)
                cells += [len(some), sum(run.end > DEAD for run in some)]
            _row([optimizer, LOSSES[loss], *cells])
