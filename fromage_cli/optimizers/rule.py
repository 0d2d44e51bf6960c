"""One record for each optimizer: its settings, its memory, and the laws that hold for it.

No other file names an optimizer; to add one is to add its record here and a test against the real one.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Formula = Literal["threshold", "equilibrium", "coupled equilibrium", "growth", "typical rate"]
StepSize = Literal["gradient", "root mean square", "sign", "weights"]


@dataclass(frozen=True)
class Bound:
    """What a setting may be."""

    expected: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True, eq=False)
class Rule:
    """What is known of one optimizer."""

    name: str
    """As `--optimizer` takes it."""
    title: str
    """As a sentence calls it."""
    implementation: str
    """The dotted name of the torch class that steps."""
    defaults: Mapping[str, Any]
    """The settings that the class takes beside the rate, each with what is taken where nothing says it."""
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    """What settings of this rule may be, where BOUNDS does not say it for every rule."""
    slots: tuple[str, ...] = ()
    """What it remembers of a tensor, under the names in its state."""
    relative: bool = False
    """Whether its rate is a relative step: ‖ΔW‖ = η ‖W‖ for every tensor."""
    decay: Literal["coupled", "decoupled", "rescaled"] | None = None
    """Whether weight decay is added to the gradient, goes past it, or to the update before that is rescaled."""
    may_decouple: bool = False
    """Whether laws are known for its coupled decay made decoupled too."""
    matrices_only: bool = False
    """Whether it takes tensors of two dimensions alone."""
    reads_weights: bool = False
    """Whether its step depends on the size of the weights, besides their decay."""
    averages: Literal["momentum", "betas"] | None = None
    """What its step averages gradients by, as they are or over the root of their mean square; None: it is not linear
    in the gradients that it remembers, or remembers none."""
    threshold: Literal["momentum", "adam"] | None = None
    """Which formula gives the largest stable curvature at its rate; `adam`: that of the preconditioned Hessian."""
    rate_power: int | None = None
    """A scale-invariant layer sees the rate as η / ‖W‖ to this power; None where no power does."""
    step_size: StepSize | None = None
    """What its step is as large as, from which follows where decay takes a scale-invariant layer: the gradient, a root
    mean square of 1 in every entry, a sign in every entry, or the weights; None where that is not known."""
    keeps_norm: bool = False
    """Whether it keeps the norm of a scale-invariant layer."""
    without: Mapping[Formula, str] = field(default_factory=dict)
    """Why a formula does not hold for it, one sentence's end for each."""
    setting_marks: tuple[frozenset[str], ...] = ()
    """Settings that together only a state of this optimizer has."""
    slot_marks: tuple[frozenset[str], ...] = ()
    """Slots that together only a state of this optimizer has."""

    def has(self, setting: str) -> bool:
        """Whether it has a setting of that name."""
        return setting in self.defaults

    @property
    def adaptive(self) -> bool:
        """Whether its threshold is one of the Hessian preconditioned by second moments."""
        return self.threshold == "adam"

    @property
    def takes_whole_tensors(self) -> bool:
        """Whether the step of an entry depends on other entries of its tensor by more than their norm."""
        return self.matrices_only or self.reads_weights

    def load_class(self) -> "type[torch.optim.Optimizer]":
        """The class that steps."""
        module, _, name = self.implementation.rpartition(".")
        found: type[torch.optim.Optimizer] = getattr(import_module(module), name)
        return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0.0 <= value < 1.0


NOT_NEGATIVE = Bound("a number, 0 or above", lambda value: _is_number(value) and value >= 0.0)
SHARE = Bound("a number from 0 to below 1", _is_share)
TWO_SHARES = Bound(
    "two numbers from 0 to below 1",
    lambda value: isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_share, value)),
)
BOUNDS: Mapping[str, Bound] = {
    "lr": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "momentum": SHARE,
    "dampening": Bound("a number", _is_number),
    "betas": TWO_SHARES,
    "eps": NOT_NEGATIVE,
    "trust_coefficient": NOT_NEGATIVE,
    "trust_coeff": NOT_NEGATIVE,
}
"""By the name of the setting, in every optimizer that has no bound of its own for it."""

MOMENTUM = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0}
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
NOT_LINEAR = "its step is not proportional to the gradient, so curvature sets no highest stable rate"


def _marks(*together: Iterable[str]) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(names) for names in together)


FROMAGE = Rule(
    name="fromage",
    title="Fromage",
    implementation="fromage_cli.optim.Fromage",
    defaults={"p_bound": None},
    relative=True,
    reads_weights=True,
    rate_power=0,
    step_size="weights",
    keeps_norm=True,
    without={"threshold": NOT_LINEAR},
    setting_marks=_marks({"p_bound"}),
)
LARS = Rule(
    name="lars",
    title="LARS",
    implementation="fromage_cli.optim.LARS",
    defaults={**MOMENTUM, "trust_coefficient": 1.0, "trust_clip": False},
    slots=("momentum_buffer",),
    relative=True,
    decay="coupled",
    may_decouple=True,
    reads_weights=True,
    averages="momentum",
    rate_power=0,
    step_size="weights",
    without={"threshold": NOT_LINEAR},
    setting_marks=_marks({"trust_coefficient"}, {"trust_coeff"}),
)
LAMB = Rule(
    name="lamb",
    title="LAMB",
    implementation="fromage_cli.optim.LAMB",
    defaults={"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, "trust_clip": False},
    slots=MOMENTS,
    relative=True,
    decay="rescaled",
    reads_weights=True,
    averages="betas",
    rate_power=0,
    without={
        "threshold": NOT_LINEAR,
        "equilibrium": "lamb has no closed form: it rescales its weight decay together with its update",
    },
    setting_marks=_marks({"betas", "trust_clip"}, {"betas", "grad_averaging"}),
    slot_marks=_marks({"trust_ratio"}),
)
SGD = Rule(
    name="sgd",
    title="SGD",
    implementation="torch.optim.SGD",
    defaults=MOMENTUM,
    slots=("momentum_buffer",),
    decay="coupled",
    averages="momentum",
    threshold="momentum",
    rate_power=2,
    step_size="gradient",
    without={"growth": "the learning rate of sgd is not a relative step"},
    setting_marks=_marks({"nesterov", "dampening"}),
)
ADAM = Rule(
    name="adam",
    title="Adam",
    implementation="torch.optim.Adam",
    defaults={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False},
    slots=MOMENTS,
    decay="coupled",
    may_decouple=True,
    averages="betas",
    threshold="adam",
    rate_power=1,
    step_size="root mean square",
    without={
        "coupled equilibrium": "Adam has no closed form when its weight decay goes through the gradient",
        "growth": "the learning rate of adam is not a relative step",
    },
)
ADAMW = Rule(
    name="adamw",
    title="AdamW",
    implementation="torch.optim.AdamW",
    defaults=ADAM.defaults,
    slots=MOMENTS,
    decay="decoupled",
    averages="betas",
    threshold="adam",
    rate_power=1,
    step_size="root mean square",
    without={"growth": "the learning rate of adamw is not a relative step"},
)
LION = Rule(
    name="lion",
    title="Lion",
    implementation="fromage_cli.optim.Lion",
    defaults={"betas": (0.9, 0.99), "weight_decay": 0.0},
    slots=("exp_avg",),
    decay="decoupled",
    rate_power=1,
    step_size="sign",
    without={"threshold": NOT_LINEAR, "growth": "the learning rate of lion is not a relative step"},
)
MUON = Rule(
    name="muon",
    title="Muon",
    implementation="torch.optim.Muon",
    defaults={
        "momentum": 0.95,
        "nesterov": True,
        "weight_decay": 0.0,
        "eps": 1e-7,
        "ns_steps": 5,
        "ns_coefficients": (3.4445, -4.775, 2.0315),
        "adjust_lr_fn": None,
    },
    bounds={
        "ns_steps": Bound(
            "a whole number from 0 to below 100",
            lambda value: _is_number(value) and value == int(value) and 0 <= value < 100,
        ),
        "ns_coefficients": Bound(
            "three numbers",
            lambda value: isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value)),
        ),
    },
    slots=("momentum_buffer",),
    decay="decoupled",
    matrices_only=True,
    rate_power=1,
    without={
        "threshold": NOT_LINEAR,
        "equilibrium": "muon has no closed form: it orthogonalises its step after the momentum",
        "growth": "the learning rate of muon is not a relative step",
        "typical rate": "for Muon's original scaling",
    },
    setting_marks=_marks({"ns_steps"}),
)

ADAFACTOR = Rule(
    name="adafactor",
    title="Adafactor",
    implementation="torch.optim.Adafactor",
    defaults={"beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0, "weight_decay": 0.0},
    bounds={
        "eps": Bound(
            "two numbers, 0 or above; the first may be missing",
            lambda value: (
                isinstance(value, list | tuple)
                and len(value) == 2
                and (value[0] is None or NOT_NEGATIVE.fits(value[0]))
                and NOT_NEGATIVE.fits(value[1])
            ),
        ),
        "d": Bound("a number above 0", lambda value: _is_number(value) and value > 0.0),
        "beta2_decay": Bound("a number, 0 or below", lambda value: _is_number(value) and value <= 0.0),
    },
    slots=("step",),  # and row_var with col_var, of a vector variance
    decay="decoupled",
    reads_weights=True,
    rate_power=0,
    without={
        "threshold": (
            "its step is clipped and so not proportional to the gradient, so curvature sets no highest stable rate"
        ),
        "equilibrium": "adafactor has no closed form: its step is scaled to the size of the weights",
        "growth": "the learning rate of adafactor is not a relative step",
        "typical rate": "no study gives one for Adafactor",
    },
    setting_marks=_marks({"beta2_decay"}),
    slot_marks=_marks({"row_var"}, {"step", "variance"}),
)

RULES: Mapping[str, Rule] = {rule.name: rule for rule in (FROMAGE, LARS, LAMB, SGD, ADAM, ADAMW, LION, MUON, ADAFACTOR)}
"""By name, in the order in which tables list them."""


def listed(rules: Iterable[Rule]) -> str:
    """Their names in a sentence: `sgd, lars and muon`."""
    *others, last = (rule.name for rule in rules)
    return f"{', '.join(others)} and {last}" if others else last


def having(setting: str) -> list[Rule]:
    """The rules that have a setting."""
    return [rule for rule in RULES.values() if rule.has(setting)]


NAME_IT = f"--optimizer NAME sets it ({listed(RULES.values())})"
"""What to do where the optimizer is not known."""
