"""Real training steps of the user's optimizer on the problem's batches, every run from the same weights and state.

Losses are those of `problem.mode`; the running statistics of normalisation layers stay as they are, since no loss in
training behaviour depends on them.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.counting import counted
from fromage_cli.errors import MismatchError, UsageError
from fromage_cli.optimizers.rule import NAME_IT
from fromage_cli.probes.optimizer_step.matched_state import MatchedState, group_shares
from fromage_cli.probes.optimizer_step.real_step import load_slot
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.shards import part_as, whole

BATCHES = 5
"""Into which the rows are cut where there are fewer batches: four to train on, and one for losses."""
LEAST_ROWS = 6
"""Batches of so many rows are cut into parts of two or more: normalisation over a batch refuses a single row."""
UNIVERSAL = ("maximize",)
"""Settings of a group in the checkpoint that are taken as they stand there, where the class has them."""


@dataclass(frozen=True)
class TrainingRows:
    """Minibatches to train on, and rows that no step sees."""

    batches: tuple[Batch, ...]
    independent: tuple[Batch, ...]
    source: str
    """Where both come from, for people."""
    whole: int
    """Rows of a training batch."""

    @property
    def smaller(self) -> int | None:
        """Rows of a minibatch where there are too few for whole training batches; None where these are whole."""
        largest = max(batch.size for batch in self.batches)
        return largest if largest < self.whole else None

    def in_order(self, seed: int) -> tuple[Batch, ...]:
        """The minibatches in the order of a seed: as they come, or turned round."""
        return self.batches if seed % 2 == 0 else self.batches[::-1]


def training_rows(problem: Problem, size: int | None = None) -> TrainingRows:
    """The problem's rows as minibatches, the last fifth of them kept apart.

    `size`: rows of a training batch, by default those that most batches have. Batches are cut where they are larger,
    and where there are fewer than BATCHES of them; those of less than half as many rows are left out. Raises
    UsageError below two rows.
    """
    several: tuple[Batch, ...] = (*problem.batches, *problem.spare)
    sizes = Counter(batch.size for batch in several)
    wanted = size or max(sizes, key=lambda rows: (sizes[rows], rows))
    several = tuple(batch for batch in several if 2 * batch.size >= wanted) or several
    pieces = math.ceil(BATCHES / len(several))
    parts: list[Batch] = []
    for batch in several:
        least = 2 if batch.size >= LEAST_ROWS else 1
        rows = min(wanted, max(batch.size // pieces, least))
        # rows left over belong to no part: all are equal
        parts += [batch.rows(start, start + rows) for start in range(0, batch.size - rows + 1, rows)]
    if len(parts) < 2:
        raise UsageError(
            "Training steps and a loss on other rows need two rows; the batch has one.", "Give a larger --batch."
        )
    kept = max(1, len(parts) // BATCHES)
    batches, independent = tuple(parts[:-kept]), tuple(parts[-kept:])
    number = f"{len(batches)} batch{'es' if len(batches) > 1 else ''}"
    judges = counted(sum(batch.size for batch in independent), "row")
    source = f"{number} of {counted(batches[0].size, 'row')}, judged on {judges} outside"
    return TrainingRows(batches, independent, source, wanted)


@dataclass(frozen=True)
class _Group:
    """Tensors that the optimizer steps on with settings of their own."""

    tensors: tuple[TrainableTensor, ...]
    settings: Mapping[str, Any]
    """Those that are the group's own."""
    share: float
    """The group's rate over the highest of any group."""


class Training:
    """Runs of one optimizer, each from the same weights and the same state."""

    def __init__(self, matched: MatchedState, origin: Mapping[str, Tensor]) -> None:
        self.problem, self.origin = matched.problem, origin
        optimizer, state = matched.optimizer, matched.state
        if optimizer.rule is None:
            raise UsageError(f"No steps can be taken with optimizer {optimizer.name!r}.", f"{NAME_IT}.")
        self.record, self.rule, self.settings = optimizer.rule, optimizer.rule.load_class(), optimizer.arguments
        movable = [tensor for tensor in self.problem.trainable if matched.takes(tensor)]
        self.groups = [_Group(tuple(movable), {}, 1.0)]
        if state is not None and matched.members_known:  # else all train as one group
            self.groups = _groups(matched, state, movable, inspect.signature(self.rule).parameters)
        self.slots = matched.members if state is not None and state.slots else {}
        self.start(0.0)

    def start(self, rate: float) -> None:
        """Begins a new run from the same weights and state; `rate` is the highest of any group."""
        for tensor in self.problem.trainable:
            tensor.parameter.data.copy_(self.origin[tensor.name])
        groups: list[dict[str, Any]] = [
            {"params": [tensor.parameter for tensor in group.tensors], **group.settings, "lr": rate * group.share}
            for group in self.groups
        ]
        try:
            self.optimizer = self.rule(groups, lr=rate, **self.settings)  # type: ignore[call-arg]
        except ValueError as error:
            raise UsageError(f"{self.rule.__name__} does not take these settings: {error}.", "Correct them.") from error
        if self.record.takes_whole_tensors and self.problem.ranks.sharded:
            self.optimizer = WholeTensorSteps(self.optimizer)
        amsgrad = any(group.get("amsgrad") for group in self.optimizer.param_groups)
        for tensor in self.problem.receiving:
            slot = self.slots.get(tensor.name, (None, {}))[0]
            if slot is not None:
                self.optimizer.state[tensor.parameter] = load_slot(slot, tensor.parameter, self.record, amsgrad)
        self.rates = [float(group["lr"]) for group in groups]
        self.taken = 0

    def step(self, batch: Batch, factor: float = 1.0) -> float:
        """Takes a step on a minibatch at so many times the rate, and gives the loss before.

        Step k of every run draws the same dropout masks.
        """
        part = self.problem.on(self._placed(batch))
        part.seed = self.problem.seed + self.taken
        gradients: dict[str, Tensor] = {}
        loss = part.visit_gradient(lambda tensor, gradient: gradients.__setitem__(tensor.name, gradient))
        self.problem.evaluations.gradients += part.rows / self.problem.rows
        self.taken += 1
        if not math.isfinite(loss):
            return loss
        for tensor in self.problem.trainable:
            tensor.parameter.grad = gradients.get(tensor.name)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        try:
            self.move()
        finally:
            self.problem.drop_gradients()
        return loss

    def move(self) -> None:
        """Lets the optimizer step along the gradients that are set. Raises MismatchError where its state has gaps."""
        try:
            self.optimizer.step()
        except KeyError as error:
            raise MismatchError(
                f"The optimizer's state lacks {error} of some tensor, which steps of {self.rule.__name__} go on from.",
                "Give a state that was saved whole, or another --optimizer.",
            ) from error

    def _placed(self, batch: Batch) -> Batch:
        """A batch where the weights are, in their precision."""
        return batch.to(self.problem.device, self.problem.dtype)

    def loss(self, batches: Sequence[Batch]) -> float:
        """The loss of other rows at the weights reached."""
        part = self.problem.on(*map(self._placed, batches))
        loss = part.value()
        self.problem.evaluations.forwards += part.rows / self.problem.rows
        return loss


class WholeTensorSteps(torch.optim.Optimizer):
    """Steps of an optimizer that needs whole tensors, on such as are spread over ranks: one after the other.

    What it remembers of an entry is spread as the tensor is; other numbers every rank has.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.rule: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] = type(optimizer)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Steps on every tensor that has a gradient."""
        for group in self.param_groups:
            settings = {name: value for name, value in group.items() if name != "params"}
            for spread in group["params"]:
                if spread.grad is None:
                    continue
                tensor = nn.Parameter(whole(spread.detach()).clone())
                tensor.grad = whole(spread.grad)
                alone = self.rule([{"params": [tensor], **settings}])
                alone.state[tensor] = {
                    name: whole(kept) if isinstance(kept, Tensor) else kept
                    for name, kept in self.state.get(spread, {}).items()
                }
                alone.step()
                spread.copy_(part_as(spread, tensor.detach()))
                self.state[spread] = {
                    name: part_as(spread, kept) if getattr(kept, "shape", None) == spread.shape else kept
                    for name, kept in alone.state[tensor].items()
                }


@contextmanager
def training(matched: MatchedState) -> Iterator[Training]:
    """Training runs on a problem; weights and `.grad` are afterwards as before, however the block ends.

    Raises UsageError (no such optimizer, settings that torch refuses) and MismatchError (a state of another model).
    """
    problem = matched.problem
    parameters = list(problem.model.parameters())
    gradients = [parameter.grad for parameter in parameters]
    try:
        problem.base  # noqa: B018  # which tensors receive a gradient, and how often
        with problem.displaced(problem.trainable) as origin:
            yield Training(matched, origin)
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def _groups(
    matched: MatchedState, state: OptimizerState, movable: Sequence[TrainableTensor], accepted: Container[str]
) -> list[_Group]:
    """The groups of the state, with what distinguishes them. Raises MismatchError where they do not fit the model."""
    optimizer, numbers = matched.optimizer, matched.numbers
    shares = group_shares(state)
    kept = [name for name in UNIVERSAL if name in accepted]
    kept += [] if optimizer.decay_given or not optimizer.has("weight_decay") else ["weight_decay"]
    groups = []
    for group, share in zip(state.groups, shares, strict=True):
        own = optimizer.of_group(group.settings).arguments
        own |= {name: group.settings[name] for name in kept if name in group.settings}
        members = tuple(tensor for tensor in movable if numbers.get(tensor.name) in group.numbers)
        groups.append(_Group(members, own, share))
    return [group for group in groups if group.tensors]
