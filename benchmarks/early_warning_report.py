"""Tables and picture of the study of early warnings, from its results alone."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from early_warning_recipes import CHOSEN_ON

RESULTS = Path(__file__).parent / "results" / "early_warning.csv"
WARNS, FAILS = ("look", "stop"), ("stop",)
INPUTS = ("files", "network")
"""What `check` is given: the files alone, or the network and a batch too."""
HALVES = ("choosing", "testing")
"""Runs that were in sight when rules and limits were chosen, and those that were trained and judged afterwards."""
GATES = ("outlier", "doubled")
"""The alarms by the loss alone: see early_warning_losses.py."""
LEADS = ("lead over being behind", "lead over the loss's alarms")
GROUPS = ("goes wrong", "stays", "healthy")
DRAWN = (
    ("check, files", "files", "tab:blue", "o"),
    ("check, network", "network", "tab:cyan", "s"),
    ("6 σ of the loss", "outlier", "tab:red", "v"),
    ("loss doubled", "doubled", "tab:orange", "^"),
    ("behind its twin", "behind", "0.5", "|"),
)
"""Rows of a kind in the picture: title, event, colour and mark."""


@dataclass(frozen=True)
class Said:
    """What `check` said at one checkpoint."""

    step: int
    verdict: str
    warnings: tuple[str, ...]
    """Codes of warnings and failures."""
    seconds: float


@dataclass(frozen=True)
class Run:
    """One run, when its loss shows that it goes wrong, and what `check` said of it."""

    name: str
    group: str
    kind: str
    odd: str
    half: str
    steps: int
    sick_from: int
    losses: tuple[str, str, str, str]
    """Trained and held out, and the same of its twin."""
    events: dict[str, int | None]
    """Steps of `outlier`, `doubled` and `behind`, and at which `check` first warns by `files` and by `network`."""
    answers: dict[str, list[Said]]

    def first(self, given: str, verdicts: Sequence[str]) -> int | None:
        """Return the step of the first such verdict once the fault is there."""
        return next(
            (one.step for one in self.answers[given] if one.step >= self.sick_from and one.verdict in verdicts), None
        )

    @property
    def warned(self) -> int | None:
        """The first warning by any input."""
        return least(self.events[given] for given in INPUTS)

    @property
    def gate(self) -> int | None:
        """The first alarm by the loss alone once the fault is there."""
        return least(self.events[name] for name in GATES)


def least(steps: Iterable[int | None]) -> int | None:
    """Return the first of the steps that there are."""
    return min((step for step in steps if step is not None), default=None)


def losses_beside(results: Path) -> Path:
    """Return the table with the losses of the runs."""
    return results.with_name(f"{results.stem}_runs.csv")


def load(results: Path) -> list[Run]:
    """Return the runs of which `check` has said anything."""
    answers: dict[str, dict[str, list[Said]]] = {}
    with results.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found = [one.split(":")[:2] for one in row["findings"].split()]
            warnings = tuple(dict.fromkeys(code for code, severity in found if severity != "info"))
            said = Said(int(row["step"]), row["verdict"], warnings, float(row["seconds"]))
            of_run = answers.setdefault(row["run"], {given: [] for given in INPUTS})
            of_run[INPUTS[int(row["network"])]].append(said)
    with losses_beside(results).open(encoding="utf-8", newline="") as file:
        return [run_of(row, answers[row["run"]]) for row in csv.DictReader(file) if row["run"] in answers]


def run_of(row: dict[str, str], answers: dict[str, list[Said]]) -> Run:
    """Return a run from its row of losses and what `check` said of it."""
    events = {name: int(row[name]) if row[name] else None for name in (*GATES, "behind")}
    run = Run(
        name=row["run"],
        group=row["group"],
        kind=row["kind"],
        odd=row["odd"],
        half=HALVES[int(row["seed"]) > CHOSEN_ON],
        steps=int(row["steps"]),
        sick_from=int(row["sick_from"]),
        losses=(row["train"], row["held_out"], row["twin_train"], row["twin_held_out"]),
        events=events,
        answers={given: sorted(said, key=lambda one: one.step) for given, said in answers.items()},
    )
    run.events.update({given: run.first(given, WARNS) for given in INPUTS})
    return run


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def event(name: str) -> Callable[[Run], int | None]:
    """Return what gives the step of this event in a run."""
    return lambda run: run.events[name]


def place(runs: Sequence[Run], happens: Callable[[Run], int | None]) -> str:
    """The median share of the run at which something happens, and in how many runs it does."""
    shares = [step / run.steps for run in runs if (step := happens(run)) is not None]
    return f"{median(shares):.0%} ({len(shares)} of {len(runs)})" if shares else f"never (0 of {len(runs)})"


def lead(runs: Sequence[Run], happens: Callable[[Run], int | None]) -> str:
    """The median lead of `check` where both it and another alarm come, and how many runs have only one of them."""
    pairs = [(happens(run), run.warned, run.steps) for run in runs]
    leads = [(other - own) / steps for other, own, steps in pairs if other is not None and own is not None]
    alone = sum(other is None and own is not None for other, own, _ in pairs)
    missed = sum(other is not None and own is None for other, own, _ in pairs)
    parts = [f"{median(leads):+.0%} ({len(leads)})"] if leads else []
    parts += [f"`check` alone: {alone}"] if alone else []
    parts += [f"`check` never: {missed}"] if missed else []
    return ", ".join(parts) or "neither"


def kinds_table(runs: Sequence[Run], group: str) -> str:
    """A row for each kind of fault."""
    of_group = [run for run in runs if run.group == group]
    rows = []
    for kind in [*dict.fromkeys(run.kind for run in of_group), "all"]:
        alike = [run for run in of_group if kind in (run.kind, "all")]
        cells = [place(alike, event(name)) for name in ("behind", *GATES, *INPUTS)]
        fails = place(alike, lambda run: least(run.first(given, FAILS) for given in INPUTS))
        leads = [lead(alike, event("behind")), lead(alike, lambda run: run.gate)]
        rows.append((kind, len(alike), *cells, fails, *leads))
    head = ("what is wrong", "runs", "behind its twin", "6 σ of the loss", "loss doubled")
    return table((*head, "`check` warns, files", "`check` warns, network", "`check` fails", *LEADS), rows)


def runs_table(runs: Sequence[Run]) -> str:
    """A row for each sick run, in steps."""
    rows = []
    for run in runs:
        if run.group != "healthy":
            steps = [step if (step := run.events[name]) is not None else "–" for name in ("behind", *GATES, *INPUTS)]
            codes = {
                code: None
                for given in INPUTS
                for one in run.answers[given]
                if one.step == run.warned
                for code in one.warnings
            }
            said = ", ".join(f"`{code}`" for code in codes) or "–"
            rows.append((f"`{run.name}`", run.half, run.kind, *run.losses[:3:2], run.sick_from, *steps, said))
    head = ("run", "half", "what is wrong", "loss", "its twin's", "from", "behind its twin", "6 σ", "doubled")
    return table((*head, "`check`, files", "`check`, network", "first named by"), rows)


def false_alarms(runs: Sequence[Run], given: str, verdicts: Sequence[str]) -> tuple[str, str]:
    """Of healthy runs: alarms per 100 checkpoints, and blamed runs of all."""
    said = [one.verdict in verdicts for run in runs for one in run.answers[given]]
    blamed = sum(any(one.verdict in verdicts for one in run.answers[given]) for run in runs)
    return f"{100.0 * fmean(said):.1f} ({sum(said)} of {len(said)})" if said else "–", f"{blamed} of {len(runs)}"


def healthy_table(runs: Sequence[Run]) -> str:
    """Alarms in healthy runs, by half and by what `check` is given, and those of the loss."""
    healthy = [run for run in runs if run.group == "healthy"]
    rows = []
    for half in (*HALVES, "both"):
        alike = [run for run in healthy if half in (run.half, "both")]
        for given in INPUTS:
            cells = [cell for verdicts in (WARNS, FAILS) for cell in false_alarms(alike, given, verdicts)]
            rows.append((half, f"`check`, {given}", *cells))
        for name, title in zip(GATES, ("6 σ of the loss", "loss doubled"), strict=True):
            blamed = sum(run.events[name] is not None for run in alike)
            rows.append((half, title, "–", f"{blamed} of {len(alike)}", "–", "–"))
    head = ("half", "alarm by", "warnings per 100 checkpoints", "runs warned of", "failures per 100 checkpoints")
    return table((*head, "runs failed"), rows)


def blamed_table(runs: Sequence[Run]) -> str:
    """A row for each healthy run that was warned of, and for each sick one before its fault."""
    rows = []
    for run in runs:
        end = run.sick_from if run.group != "healthy" else run.steps + 1
        said = [(given, one) for given in INPUTS for one in run.answers[given] if one.step < end and one.warnings]
        if said:
            codes = Counter(code for _, one in said for code in one.warnings)
            named = ", ".join(f"`{code}` ({count})" for code, count in codes.items())
            steps = ", ".join(map(str, sorted({one.step for _, one in said})))
            rows.append((f"`{run.name}`", run.odd or (run.kind and "before its fault"), steps, named))
    return table(("run", "what looks odd", "steps", "warnings (answers)"), rows)


def codes_table(runs: Sequence[Run]) -> str:
    """In how many runs of each group a code warns, and in how many it is among the first."""
    fired: dict[str, Counter[str]] = {group: Counter() for group in GROUPS}
    first: Counter[str] = Counter()
    for run in runs:
        said = [one for given in INPUTS for one in run.answers[given] if one.step >= run.sick_from]
        fired[run.group].update({code for one in said for code in one.warnings})
        if run.group != "healthy":
            first.update({code for one in said if one.step == run.warned for code in one.warnings})
    codes = sorted(set().union(*fired.values()))
    rows = [(f"`{code}`", *(fired[group][code] for group in GROUPS), first[code]) for code in codes]
    sizes = [f"{group} ({sum(run.group == group for run in runs)})" for group in GROUPS]
    return table(("code", *sizes, "among the first"), rows)


def halves_table(runs: Sequence[Run]) -> str:
    """What is found and what is blamed, by half."""
    rows = []
    for half in (*HALVES, "both"):
        of_half = [run for run in runs if half in (run.half, "both")]
        wrong, stays, healthy = ([run for run in of_half if run.group == group] for group in GROUPS)
        gated = [run for run in wrong if run.gate is not None]
        earlier = sum(run.warned is not None and run.gate is not None and run.warned < run.gate for run in gated)
        found = [f"{sum(run.warned is not None for run in group)} of {len(group)}" for group in (wrong, stays)]
        rows.append((half, found[0], f"{earlier} of {len(gated)}", found[1], blamed(healthy)))
    head = ("half", "going wrong: warned of", "earlier than the loss, where that tells", "staying: warned of")
    return table((*head, "healthy: warned of"), rows)


def blamed(runs: Sequence[Run]) -> str:
    """In how many runs `check` warns at all."""
    return f"{sum(run.warned is not None for run in runs)} of {len(runs)}"


def summary(runs: Sequence[Run]) -> str:
    """The numbers of the study in a few sentences."""
    wrong, stays, healthy = ([run for run in runs if run.group == group] for group in GROUPS)
    told = [sum(run.events[name] is not None for run in wrong) for name in GATES]
    leads = [(run.gate - run.warned) / run.steps for run in wrong if run.gate is not None and run.warned is not None]
    seconds = [fmean(one.seconds for run in runs for one in run.answers[given]) for given in INPUTS]
    middle = median(leads) if leads else 0.0
    led = f"Where both told, `check` came {abs(middle):.0%} of the run {'later' if middle < 0.0 else 'earlier'}"
    return (
        f"{len(wrong)} runs went wrong, {len(stays)} were sick and stayed, and {len(healthy)} were healthy. "
        f"Of those that went wrong `check` warned of {blamed(wrong)}. "
        f"The 6 σ rule told {told[0]} of them, and a doubled loss {told[1]}. {led} in the median of {len(leads)}. "
        f"Of the sick ones that stayed `check` warned of {blamed(stays)}. "
        f"Of the healthy ones it warned of {blamed(healthy)}. "
        f"An answer took {seconds[0]:.1f} s from files alone, and {seconds[1]:.1f} s with the network."
    )


def report(results: Path, page: Path | None, plot: Path | None) -> None:
    """Print the parts, or put them into the page between the comments that name them; draw the picture if asked."""
    runs = load(results)
    parts = {
        "summary": summary(runs),
        "goes wrong": kinds_table(runs, "goes wrong"),
        "stays": kinds_table(runs, "stays"),
        "healthy": healthy_table(runs),
        "blamed": blamed_table(runs),
        "halves": halves_table(runs),
        "codes": codes_table(runs),
        "runs": runs_table(runs),
    }
    if plot is not None:
        draw(runs, plot)
    if page is None:
        print("\n\n".join(parts.values()))
        return
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>{part}\n\g<2>", text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw when each alarm comes, by kind: a mark for each run, at the right edge where the alarm never comes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    never = 1.1
    groups = [group for group in GROUPS if group != "healthy"]
    kinds = [list(dict.fromkeys(run.kind for run in runs if run.group == group)) for group in groups]
    figure = Figure(figsize=(9.0, 0.6 * sum(map(len, kinds)) + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    panes = figure.subplots(
        len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": [max(1, len(k)) for k in kinds]}
    )
    for axes, group, named in zip(panes[:, 0], groups, kinds, strict=True):
        for row, (title, name, color, mark) in enumerate(DRAWN):
            x, y = [], []
            for level, kind in enumerate(named):
                alike = [run for run in runs if run.kind == kind]
                steps = [run.events[name] for run in alike]
                x += [never if step is None else step / run.steps for step, run in zip(steps, alike, strict=True)]
                y += [level + 0.16 * (row - 2)] * len(alike)
            axes.plot(x, y, mark, color=color, alpha=0.6, markersize=5, linestyle="none", label=title)
        axes.set_yticks(range(len(named)), named, fontsize=8)
        axes.set_ylim(len(named) - 0.5, -0.5)
        axes.set_xlim(-0.03, never + 0.04)
        axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0, never], ["0", "25 %", "50 %", "75 %", "end", "never"], fontsize=8)
        for level in range(1, len(named)):
            axes.axhline(level - 0.5, color="0.85", linewidth=0.6)
        axes.set_title(
            {"goes wrong": "runs that go wrong", "stays": "sick runs that do not diverge"}[group], fontsize=9
        )
    panes[0, 0].legend(fontsize=7, ncols=len(DRAWN), loc="lower center", bbox_to_anchor=(0.5, 1.08), frameon=False)
    figure.savefig(path, dpi=100)
