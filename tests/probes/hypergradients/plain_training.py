"""A user's own training loop, written out: nothing in it comes from what is tested."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.checkpoints.optimizers.optimizer_state import ParameterGroup
from fromage_cli.optim import LARS, Fromage, Lion
from fromage_cli.optimizers.settings import Given, find_settings
from fromage_cli.probes.hypergradients.hyperparameters import Hyperparameter, Values, values_of
from fromage_cli.probes.hypergradients.training_steps import TrainingSteps
from fromage_cli.probes.hypergradients.validation import Validation, validation_parts
from fromage_cli.probes.optimizer_step.matched_state import match_state
from fromage_cli.problem.data.batches import as_batch, numbered
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.hyperparameters import LABEL_SMOOTHING
from fromage_cli.problem.losses.losses import Loss
from fromage_cli.problem.losses.supervised_losses import CrossEntropy

Rows = tuple[Tensor, Tensor]
TrainingLoss = Callable[..., Tensor]
"""(model, (inputs, targets), **hyperparameters) -> a mean."""
Changes = Mapping[str, Mapping[str, float]]
"""By tensor: settings of its group that are others."""


def smoothed(model: nn.Module, rows: Rows, label_smoothing: float = 0.0) -> Tensor:
    return nn.functional.cross_entropy(model(rows[0]), rows[1], label_smoothing=label_smoothing)


def random_rows(count: int, features: int = 5, classes: int = 3, seed: int = 0) -> Rows:
    """Rows with something to learn, and as much noise."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, features, dtype=torch.float64, generator=generator)
    noise = torch.randn(count, classes, dtype=torch.float64, generator=generator)
    return inputs, (inputs[:, :classes].sin() + noise).argmax(1)


@dataclass
class Run:
    """A training run that was saved, and the loop that would have gone on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Sequence[Rows]
    """Which steps see in turn."""
    validation: Rows
    loss: TrainingLoss = smoothed
    in_loss: dict[str, float] = field(default_factory=lambda: {"label_smoothing": 0.1})
    """What the loss is trained with, by keyword."""
    draws: Callable[[nn.Module, int], AbstractContextManager[None]] = lambda *_: nullcontext()
    """Given the model and the number of a step: what that draws its random numbers within."""

    def train(self, steps: int) -> "Run":
        """Goes on, and counts from there."""
        self.model.train()
        for step in range(steps):
            self.optimizer.zero_grad()
            with self.draws(self.model, step):
                self.loss(self.model, self.batches[step % len(self.batches)], **self.in_loss).backward()
            self.optimizer.step()
        return self

    def gone_on(self, steps: int, changes: Changes | None = None, in_loss: Mapping[str, float] | None = None) -> "Run":
        """A copy of the run that has taken more steps, with a group for each tensor."""
        other = replace(self, model=deepcopy(self.model), in_loss={**self.in_loss, **(in_loss or {})})
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        saved, groups = deepcopy(self.optimizer.state_dict()), []
        order = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for group in saved["param_groups"]:
            for number in group["params"]:
                groups.append({**group, "params": [number], **(changes or {}).get(names[order[number]], {})})
        parameters = dict(other.model.named_parameters())
        other.optimizer = type(self.optimizer)([{"params": [parameters[names[each]]]} for each in order])
        other.optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
        return other.train(steps)

    def end(self, steps: int, changes: Changes | None = None, in_loss: Mapping[str, float] | None = None) -> float:
        """The validation loss where that ends."""
        return self.gone_on(steps, changes, in_loss).validation_loss()

    def validation_loss(self) -> float:
        """In evaluation mode, without regularisers."""
        self.model.eval()
        with torch.no_grad():
            return float(nn.functional.cross_entropy(self.model(self.validation[0]), self.validation[1]))

    def state(self) -> OptimizerState:
        """What a checkpoint of it holds of the optimizer."""
        saved = deepcopy(self.optimizer.state_dict())
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        groups = [
            ParameterGroup(
                {key: value for key, value in group.items() if key != "params"},
                tuple(group["params"]),
                tuple(names[parameter] for parameter in live["params"]),
            )
            for group, live in zip(saved["param_groups"], self.optimizer.param_groups, strict=True)
        ]
        return OptimizerState(tuple(groups), saved["state"])

    def probed(self, steps: int, loss: Loss | None = None, **settings: Any) -> "Probed":
        """What is tested, on a copy of the model; `loss` by default smoothed cross-entropy."""
        model, state = deepcopy(self.model), self.state()
        batches = numbered([as_batch(rows, "training rows") for rows in self.batches])
        problem = Problem(
            model, loss or CrossEntropy(), batches[0], **{"mode": "train", "further": tuple(batches[1:]), **settings}
        )
        optimizer = find_settings(Given(), state.settings, Given())
        matched = match_state(problem, optimizer, state)
        held = {LABEL_SMOOTHING: self.in_loss["label_smoothing"]} if loss is None else self.in_loss
        names = [tensor.name for tensor in problem.receiving]
        values = values_of(matched, optimizer.learning_rate or 0.0, held, names)
        taken = [batches[step % len(batches)] for step in range(steps)]
        rows = as_batch(self.validation, "validation rows")
        validation = Validation(Problem(model, CrossEntropy(), rows, mode="eval"), validation_parts([rows]))
        return Probed(TrainingSteps(matched, taken, values), validation, values)


@dataclass
class Probed:
    """The same steps as they are taken by what is tested."""

    steps: TrainingSteps
    validation: Validation
    values: Values


SETTINGS = {"decay": "weight_decay", "rate": "lr"}
"""What a group calls that which acts in a place."""


def differences(
    run: Run, steps: int, moved: Hyperparameter, values: Values, *, change: float = 1e-3, points: int = 4
) -> float:
    """The derivative by a hyperparameter from two or four runs of the loop, with an error of that order.

    `change`: of its value, or where that is 0 by itself.
    """
    width = change * moved.value if moved.value else change

    def end(times: int) -> float:
        if moved.place == "loss":
            name = moved.name.replace("-", "_")
            return run.end(steps, in_loss={name: run.in_loss[name] + times * width})
        held = values.at(moved.place)
        shares = {name: held[name] / moved.value if moved.value else 1.0 for name in moved.members}
        key = SETTINGS[moved.place]
        return run.end(steps, {name: {key: held[name] + times * width * share} for name, share in shares.items()})

    if points == 2:
        return (end(1) - end(-1)) / (2.0 * width)
    return (8.0 * (end(1) - end(-1)) - (end(2) - end(-2))) / (12.0 * width)


OPTIMIZERS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    "nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.05}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}),
    "amsgrad": (torch.optim.AdamW, {"lr": 0.01, "betas": (0.8, 0.9), "amsgrad": True, "weight_decay": 0.1}),
    "lion": (Lion, {"lr": 0.001, "weight_decay": 0.1}),
    "fromage": (Fromage, {"lr": 0.01}),
    "bounded": (Fromage, {"lr": 0.01, "p_bound": 1.01}),
    "lars": (LARS, {"lr": 0.5, "momentum": 0.8, "trust_coefficient": 0.02, "weight_decay": 0.1}),
}
"""Classes with settings under which the small network learns."""


def perceptron() -> nn.Module:
    """5-7-3 with tanh, in float64."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def saved_run(
    name: str,
    model: nn.Module | None = None,
    trained: int = 6,
    batches: Sequence[Rows] = tuple(random_rows(16, seed=seed) for seed in range(4)),
    **settings: Any,
) -> Run:
    """A run that was saved after some steps; its vectors have half the rate of its matrices, and .3 of their decay."""
    model = model or perceptron()
    kind, usual = OPTIMIZERS[name]
    given = {**usual, **settings}
    own = {key: share * given[key] for key, share in (("lr", 0.5), ("weight_decay", 0.3)) if key in given}
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    optimizer = kind([{"params": matrices}, {"params": vectors, **own}], **given)
    return Run(model, optimizer, batches, random_rows(64, seed=9)).train(trained)
