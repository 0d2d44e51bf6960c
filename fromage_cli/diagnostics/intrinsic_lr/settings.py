"""How a run is trained: rule, rates and decays by layer – given, found in the optimizer's state, or declared beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints import Checkpoint, OptimizerState, match_parameters
from fromage_cli.errors import MismatchError, UsageError
from fromage_cli.optimizers.recognition import EITHER_ADAM
from fromage_cli.optimizers.rule import ADAM, ADAMW, LARS, LION, RULES, SGD
from fromage_cli.optimizers.settings import Given
from fromage_cli.theory.equilibrium import Gains, momentum_gains

if TYPE_CHECKING:
    from fromage_cli.problem.user_code.declared import Declared

WITH_MOMENTUM = (SGD.name, LARS.name)
MAY_DECOUPLE = [rule.name for rule in RULES.values() if rule.may_decouple]
DECOUPLED = [rule.name for rule in RULES.values() if rule.decay in ("decoupled", "rescaled")]
WITH_BETAS = {rule.name: rule.defaults["betas"] for rule in (ADAM, ADAMW, LION)}
"""What torch, or the paper, takes when nothing is said."""
VARIANTS = {"amsgrad": "AMSGrad", "trust_clip": "LARS with a clipped trust ratio"}
"""Settings that make a rule one without a closed form."""
BUFFERS = ("running_mean", "running_var")
"""Floating-point tensors that no optimizer moves."""


@dataclass(frozen=True)
class Training:
    """The rule, and every layer's settings."""

    optimizer: str
    gains: Gains = field(default_factory=Gains)
    momentum: float | None = None
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    trust: float = 1.0
    """LARS: relative step over learning rate."""
    decoupled: bool = False
    rates: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """By layer, at each checkpoint."""
    decays: Mapping[str, float | None] = field(default_factory=dict)
    """By layer."""
    steps_per_epoch: int | None = None
    variant: str | None = None
    """What makes the rule another one than theory speaks of."""
    notes: tuple[str, ...] = ()


def find_training(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    given: Given,
    declared: Declared,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    steps_per_epoch: int | None = None,
    decoupled: bool = False,
) -> Training:
    """The settings of a run's layers; what was given wins over the optimizer's state, that over what is declared.

    `shapes`: the trainable tensors by the checkpoint's names, where a model tells. `steps_per_epoch` and `decoupled`, a
    decay that goes past the gradient where the rule's own is coupled, are given too. Raises UsageError where no rule is
    known.
    """
    states = [checkpoint.optimizer for checkpoint in checkpoints]
    kind = next((found for state in reversed(states) if state and (found := state.kind)), None)
    optimizer = given.name or (ADAMW.name if kind == EITHER_ADAM else kind)
    if optimizer is None:
        raise UsageError(
            "No optimizer is known: the checkpoint holds no state of one, and none was named.",
            "Give --optimizer and --lr, and --weight-decay.",
        )
    serving = [state if state and _serves(state.kind, optimizer) else None for state in states]
    first: Mapping[str, Any] = next((state.groups[0].settings for state in reversed(serving) if state), {})
    settings = [_by_layer(one, state, names, shapes) for one, state in zip(checkpoints, serving, strict=True)]
    rates = {
        name: tuple(_first(given.learning_rate, found[name].get("lr"), declared.learning_rate) for found in settings)
        for name in names
    }
    decays = {
        name: _first(given.weight_decay, settings[-1][name].get("weight_decay"), declared.weight_decay)
        for name in names
    }
    return replace(
        _rule(optimizer, given, first, declared),
        decoupled=optimizer in DECOUPLED or (decoupled and optimizer in MAY_DECOUPLE),
        rates=rates,
        decays=decays,
        steps_per_epoch=steps_per_epoch or declared.steps_per_epoch,
        notes=(
            *_notes(given, kind, optimizer, _unmatched(checkpoints[-1], serving[-1], names, shapes)),
            *_assumed(optimizer, given, first, declared),
        ),
    )


def _rule(optimizer: str, given: Given, first: Mapping[str, Any], declared: Declared) -> Training:
    """The rule with the settings that all layers share; `first`: those of the first group."""
    heavy, averaging = optimizer in WITH_MOMENTUM, optimizer in WITH_BETAS
    momentum, betas = 0.0, None
    if heavy:
        momentum = float(_first(given.momentum, first.get("momentum"), declared.momentum) or 0.0)
    if averaging:
        pair = _first(given.betas, first.get("betas"), declared.betas, WITH_BETAS[optimizer])
        betas = float(pair[0]), float(pair[1])
    nesterov = heavy and (given.nesterov or bool(first.get("nesterov")))
    trust = first.get("trust_coefficient") or first.get("trust_coeff") if optimizer == LARS.name else None
    return Training(
        optimizer=optimizer,
        gains=momentum_gains(momentum, float(first.get("dampening") or 0.0), nesterov) if heavy else Gains(),
        momentum=momentum if heavy else None,
        nesterov=nesterov,
        betas=betas,
        trust=float(trust or 1.0),
        variant=next((words for key, words in VARIANTS.items() if first.get(key)), None),
    )


def _assumed(optimizer: str, given: Given, first: Mapping[str, Any], declared: Declared) -> Iterator[str]:
    """What is taken for want of knowing."""
    if optimizer in WITH_MOMENTUM and _first(given.momentum, first.get("momentum"), declared.momentum) is None:
        yield "optimizer: the momentum is not known; 0 is taken."
    if optimizer in WITH_BETAS and _first(given.betas, first.get("betas"), declared.betas) is None:
        pair = ", ".join(f"{beta:g}" for beta in WITH_BETAS[optimizer])
        yield f"optimizer: the betas are not known; {pair} are taken."


def _serves(kind: str | None, optimizer: str) -> bool:
    """Whether the settings of a state of one rule are those of the other: Adam's serve AdamW."""
    adams = (ADAM.name, ADAMW.name, EITHER_ADAM)
    return kind == optimizer or (kind in adams and optimizer in adams)


def _by_layer(
    checkpoint: Checkpoint,
    state: OptimizerState | None,
    names: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]] | None,
) -> dict[str, Mapping[str, Any]]:
    """Each layer's settings: those of its group, else what all groups have in common."""
    if state is None:
        return {name: {} for name in names}
    numbers = _numbers(checkpoint, state, shapes)
    groups = {number: group.settings for group in state.groups for number in group.numbers}
    common = {
        key: value
        for key, value in state.groups[0].settings.items()
        if all(key in group.settings and group.settings[key] == value for group in state.groups)
    }
    return {name: groups[numbers[name]] if name in numbers else common for name in names}


def _numbers(
    checkpoint: Checkpoint, state: OptimizerState, shapes: Mapping[str, tuple[int, ...]] | None
) -> Mapping[str, int]:
    """Parameter numbers by name; empty where the state cannot be matched to the tensors."""
    copies = {name for group in checkpoint.tied for name in group[1:]}
    floating = {
        entry.name: entry.shape for entry in checkpoint.entries.values() if entry.floating and entry.name not in copies
    }
    trained = {name: shape for name, shape in floating.items() if not name.endswith(BUFFERS)}
    for candidates in (shapes, trained, floating):
        if candidates is None:
            continue
        try:
            return match_parameters(state, candidates)
        except MismatchError:
            continue
    return {}


def _first(*values: Any) -> Any:
    """The first value that is known, as a plain number where it is a tensor."""
    found: Any = next((value for value in values if value is not None), None)
    return found.item() if hasattr(found, "item") else found


def _unmatched(
    checkpoint: Checkpoint,
    state: OptimizerState | None,
    names: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]] | None,
) -> bool:
    """Whether groups differ in rate or decay, and some layer's group is not known."""
    if state is None or all(
        len({str(group.settings.get(key)) for group in state.groups}) == 1 for key in ("lr", "weight_decay")
    ):
        return False
    return not set(names) <= set(_numbers(checkpoint, state, shapes))


def _notes(given: Given, kind: str | None, optimizer: str, unmatched: bool) -> list[str]:
    """What the user should know of how the settings were found."""
    notes: list[str] = []
    if kind == EITHER_ADAM and given.name is None:
        notes.append("optimizer: the state does not say whether it is of adam or adamw; adamw is taken.")
    if given.name is not None and kind is not None and not _serves(kind, optimizer):
        notes.append(f"optimizer: the checkpoint holds the state of {kind}; its settings are not used for {optimizer}.")
    if unmatched:
        notes.append("optimizer: its groups differ and cannot be matched to the layers by name or shape.")
    return notes
