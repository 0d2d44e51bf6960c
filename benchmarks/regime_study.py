"""What the ratio of curvature to an optimizer's threshold says of training: the study behind the bands of `sharpness`.

    python benchmarks/regime_study.py run [--data DIR] [--results FILE] [--quick]
    python benchmarks/regime_study.py report [--results FILE]

`run` trains small networks on all their rows, from 8 initialisations, at rates that put the largest eigenvalue of the
Hessian at .5 to 12 times the optimizer's threshold, and keeps how the loss went; `report` prints the tables of
docs/regime-study.md. What is done is found again in FILE. `--data` is a folder with mnist.npz; without it the networks
on MNIST are left out. The whole takes half an hour of one idle core; `--quick`, seconds: two networks, two seeds, and
a check that the copies trained together go where a network on its own goes.
"""

import argparse
import csv
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from regime_networks import Copies, Task, all_tasks, flat
from regime_report import report
from torch import Tensor, nn

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.checkpoints.optimizers.optimizer_state import ParameterGroup
from fromage_cli.missing import found_of
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.curvature.lanczos import largest_eigenvalues
from fromage_cli.probes.curvature.preconditioned_hessian import precondition
from fromage_cli.probes.curvature.quadratic_model import simulate_training
from fromage_cli.probes.curvature.threshold import rate_for
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.moments import MINIBATCHES, moments_of_minibatches
from fromage_cli.probes.optimizer_step.real_step import MomentEstimates
from fromage_cli.probes.trial_runs.training import training
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.losses import resolve_loss

RATIOS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
LOW_RATIOS = (0.02, 0.05, 0.1, 0.2)
"""Before the others, for Adam."""
SEEDS, STEPS = 8, 300
SIMULATED_SEEDS, SIMULATED_STEPS, SIMULATED_RATIOS = 2, 16, (0.5, 0.9, 1.0, 1.2, 1.5, 2.0, 4.0)
RISE, DIVERGED = 1.1, 1e3
"""Loss over the first one: above it a run has risen; above it without a return it has diverged."""
QUICK = (("tanh-2, normal", "squared"), ("relu-2, normal", "entropy"))
LOSS_NAMES = {"squared": "mse", "entropy": "cross-entropy"}
RESULTS = Path(__file__).parent / "results" / "regime_study.csv"


@dataclass(frozen=True)
class Rule:
    """An optimizer, and what its preconditioner is made of."""

    optimizer: Optimizer
    warm_steps: int = 0
    """Steps before anything is measured; without any, means over minibatches stand in for Adam's second moments."""
    warm_rate: float = 0.0
    """Their rate."""

    def make(self, groups: list[dict[str, object]], rate: float = 0.0) -> torch.optim.Optimizer:
        """Torch's own class, with a rate for every group."""
        assert self.optimizer.rule is not None
        return self.optimizer.rule.load_class()(groups, lr=rate, fused=True, **self.optimizer.arguments)


RULES = {
    "descent": Rule(Optimizer("sgd")),
    "momentum .5": Rule(Optimizer("sgd", momentum=0.5)),
    "momentum .9": Rule(Optimizer("sgd", momentum=0.9)),
    "nesterov .9": Rule(Optimizer("sgd", momentum=0.9, nesterov=True)),
    "adam": Rule(Optimizer("adam")),
    "adam, first": Rule(Optimizer("adam"), warm_steps=1),
    "adam, warm": Rule(Optimizer("adam"), warm_steps=50, warm_rate=1e-4),
}
ONLY_GAUSSIAN = "adam, first"
"""Its rates are too small to be of use, which a few networks show."""

LOWER = ("adam", "adam, warm")
"""Run at the low ratios, too."""


class Start:
    """One network where its training at many rates begins, as the program sees it."""

    def __init__(self, task: Task, rule: Rule, seed: int, data: Path | None) -> None:
        self.rule, model, (x, y) = rule, task.model(seed), task.rows(data)
        batch = as_batch({"x": x, "y": y}, "study")
        loss = resolve_loss(LOSS_NAMES[task.loss], model, batch)
        state = self._warmed(model, Problem(model, loss, batch))
        self.problem = Problem(model, loss, batch)
        self.matched = MatchedState(self.problem, rule.optimizer, state)
        self.space = WeightSpace(self.problem.receiving)
        self.weights = flat(model)

    def _warmed(self, model: nn.Module, problem: Problem) -> OptimizerState | None:
        """Takes the first steps at a small rate, and gives the state that they leave."""
        self.slots: dict[str, Tensor] = {}
        if not self.rule.warm_steps:
            return None
        parameters = list(model.parameters())
        optimizer = self.rule.make([{"params": parameters}], self.rule.warm_rate)
        for _ in range(self.rule.warm_steps):
            gradients: dict[str, Tensor] = {}
            problem.visit_gradient(lambda tensor, gradient, kept=gradients: kept.__setitem__(tensor.name, gradient))
            for name, parameter in model.named_parameters():
                parameter.grad = gradients[name]
            optimizer.step()
            optimizer.zero_grad()
        saved = optimizer.state_dict()
        (group,) = saved["param_groups"]
        for slot in ("exp_avg", "exp_avg_sq"):
            self.slots[slot] = torch.cat([saved["state"][number][slot].flatten() for number in group["params"]])
        self.slots["step"] = saved["state"][0]["step"]
        settings = {name: value for name, value in group.items() if name != "params"}
        return OptimizerState((ParameterGroup(settings, tuple(group["params"])),), saved["state"])

    def curvature(self) -> float:
        """The largest eigenvalue of the Hessian, preconditioned where the optimizer does so."""
        estimates = {}
        if self.rule.optimizer.adaptive and self.matched.state is None:
            means, squares, _ = moments_of_minibatches(self.problem, MINIBATCHES)
            estimates = {name: MomentEstimates(mean, squares[name]) for name, mean in means.items()}
        preconditioning = precondition(self.matched, self.space, estimates)
        assert preconditioning is not None
        with preconditioning.operator(self.problem, self.space) as product:
            found, _ = found_of(largest_eigenvalues(product, self.weights, max_products=400))
        (pair,) = found.eigenvalues
        if not found.converged:
            print(f"not converged: {pair}", flush=True)
        return pair.value

    def model_outcome(self, rate: float) -> str:
        """What the simulated training in the quadratic model does, by its first letter."""
        optimizer = replace(self.rule.optimizer, learning_rate=rate)
        matched = MatchedState(self.problem, optimizer, self.matched.state)
        found, _ = found_of(simulate_training(matched, self.space, steps=SIMULATED_STEPS))
        return found.outcome[0]


def train(copies: Copies, rule: Rule, starts: Sequence[Start], rates: Sequence[float], steps: int) -> Tensor:
    """The losses of runs from every start at its rate, [steps + 1, runs]; not finite from where a run leaves numbers.

    The optimizer is torch's own, with a group for every run; a run that has left the numbers gets no gradient and so
    no step.
    """
    runs = [start.weights.clone().requires_grad_() for start in starts]
    optimizer = rule.make([{"params": [run], "lr": rate} for run, rate in zip(runs, rates, strict=True)])
    for run, start in zip(runs, starts, strict=True):
        if start.slots:
            optimizer.state[run] = {name: value.clone() for name, value in start.slots.items()}
    history = torch.full((steps + 1, len(runs)), math.nan)
    alive = list(range(len(runs)))
    for step in range(steps + 1):
        losses = copies.losses(torch.stack([runs[index] for index in alive]))
        history[step, alive] = losses.detach()
        finite = losses.isfinite()
        alive = [index for index, good in zip(alive, finite.tolist(), strict=True) if good]
        if not alive:
            break
        optimizer.zero_grad()
        losses[finite].sum().backward()
        optimizer.step()
    return history


def course(losses: Tensor) -> str:
    """How one run went, in short, from its losses [steps + 1].

    `f.08`: falls, never above 1.1 of its start, to .08 of it; `c2.5>.04@3`: comes back, after 2.5 × the start at step
    3; `u`: stays up; `x`: diverges, above 1000 × the start without a return; `x19`: is not finite from step 19 on.
    """
    shares = losses.double() / losses[0].double()
    left = (~shares.isfinite()).nonzero()
    if len(left):
        return f"x{int(left[0])}"
    highest, last = float(shares.max()), float(shares[-1])
    if highest <= RISE:
        return f"f{short(last)}"
    kind = "c" if last < 1.0 else "x" if highest > DIVERGED else "u"
    return f"{kind}{short(highest)}>{short(last)}@{int(shares.argmax())}"


def short(value: float) -> str:
    """Two digits, below a half and from a thousand on one, without what could be spared."""
    digits = f"{value:.{2 if 0.5 <= value < 1e3 else 1}g}"
    return digits.replace("e+0", "e").replace("e-0", "e-").removeprefix("0") or "0"


def measured(task: Task, name: str, given: argparse.Namespace) -> dict[str, str]:
    """The row of the table for one network under one optimizer.

    In the column of each ratio stand the courses of all seeds, then the quadratic model's outcomes by first letters.
    """
    rule = RULES[name]
    starts = [Start(task, rule, seed, given.data) for seed in range(given.seeds)]
    curvatures = [start.curvature() for start in starts]
    rates = [rate_for(rule.optimizer, curvature) for curvature in curvatures]
    ratios = (*given.low_ratios, *given.ratios) if name in LOWER else given.ratios
    pairs = [(start, ratio * rate) for ratio in ratios for start, rate in zip(starts, rates, strict=True)]
    copies = Copies(task.model(0), task.rows(given.data))
    history = train(copies, rule, [start for start, _ in pairs], [rate for _, rate in pairs], given.steps)
    row = {
        "network": task.network,
        "loss": task.loss,
        "optimizer": name,
        "guess": f"{task.guess(given.data):.4g}",
        "start": " ".join(f"{start.problem.base.loss:.3g}" for start in starts),
        "curvature": " ".join(f"{curvature:.3g}" for curvature in curvatures),
    }
    for index, ratio in enumerate(ratios):
        mine = slice(index * len(starts), (index + 1) * len(starts))
        courses = [course(losses) for losses in history[:, mine].unbind(1)]
        simulated = pairs[mine][:SIMULATED_SEEDS] if ratio in SIMULATED_RATIOS else []
        model = ["".join(start.model_outcome(rate) for start, rate in simulated)] if simulated else []
        row[f"{ratio:g}"] = " ".join([*courses, *model])
    return row


def run(given: argparse.Namespace) -> None:
    """Measures whatever the file does not hold yet."""
    done = read(given.results)
    columns = [
        "network",
        "loss",
        "optimizer",
        "guess",
        "start",
        "curvature",
        *(f"{ratio:g}" for ratio in (*given.low_ratios, *given.ratios)),
    ]
    known = {(row["network"], row["loss"], row["optimizer"]) for row in done}
    given.results.parent.mkdir(parents=True, exist_ok=True)
    with given.results.open("a", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        if not done:
            table.writeheader()
        for task in given.tasks:
            for name in RULES:
                if (task.network, task.loss, name) in known or (name == ONLY_GAUSSIAN and task.data != "gaussian"):
                    continue
                started = time.process_time()
                table.writerow(measured(task, name, given))
                file.flush()
                print(f"{task.network}\t{task.loss}\t{name}\t{time.process_time() - started:.1f} s", flush=True)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of the table so far."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check(task: Task, given: argparse.Namespace, steps: int = 10) -> None:
    """Holds copies that train together against the network that trains on its own, parameter by parameter."""
    for name, rule in RULES.items():
        starts = [Start(task, rule, seed, given.data) for seed in range(2)]
        rates = [0.1 * rate_for(rule.optimizer, start.curvature()) for start in starts]
        together = train(Copies(task.model(0), task.rows(given.data)), rule, starts, rates, steps)
        for start, rate, losses in zip(starts, rates, together.unbind(1), strict=True):
            with training(start.matched) as own:
                own.start(rate)
                alone = [own.step(start.problem.batch) for _ in range(steps + 1)]
            torch.testing.assert_close(torch.tensor(alone), losses, rtol=1e-3, atol=1e-5)
        print(f"together as alone\t{task.network}\t{name}", flush=True)


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["run", "report"])
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    given.tasks, given.seeds, given.steps = all_tasks(given.data), SEEDS, STEPS
    given.low_ratios, given.ratios = LOW_RATIOS, RATIOS
    if given.quick and given.stage == "run":
        given.tasks = [task for task in given.tasks if (task.network, task.loss) in QUICK]
        given.seeds, given.steps, given.low_ratios, given.ratios = 2, 60, (0.05,), (0.5, 1.5, 8.0)
        for task in given.tasks:
            check(task, given)
        with tempfile.TemporaryDirectory() as folder:
            given.results = given.results or Path(folder) / "quick.csv"
            run(given)
            report(read(given.results))
        return
    given.results = given.results or RESULTS
    if given.stage == "run":
        run(given)
    else:
        report(read(given.results))


if __name__ == "__main__":
    main()
