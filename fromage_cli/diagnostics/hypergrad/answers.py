"""What is asked of `hypergrad`, and the answers that its measurements put together for each hyperparameter."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fromage_cli.diagnostics.hypergrad.result import (
    CONTINUED,
    DELTA_STN,
    UNROLL,
    HyperparameterAnswers,
    MethodAnswer,
)
from fromage_cli.missing import Missing, Why
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.hypergradients.continued import Continued
from fromage_cli.probes.hypergradients.delta_stn import DeltaSTN
from fromage_cli.probes.hypergradients.differentiable_step import through_a_sign
from fromage_cli.probes.hypergradients.hyperparameters import EVERYWHERE, Hyperparameter, Values
from fromage_cli.probes.hypergradients.implicit import Derivatives, Implicit
from fromage_cli.probes.hypergradients.unrolled import Unrolled

NOT_ASKED = Missing(Why.NOT_ASKED, "it was not asked for")
NOT_ADVISED_BY = Missing(Why.NOT_ASKED, "only the answer that advice rests on has one")
ONE_PART = Missing(Why.TOO_FEW_ROWS, "it takes two validation rows")
NOT_OF_THIS_METHOD = Missing(Why.NOT_DEFINED, "this method has none")
"""Of a number that only other methods give."""


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    steps: int = 0
    """Further training steps to look at; 0 leaves them out."""
    batch_size: int | None = None
    """Rows of a training batch; None takes the batch whole."""
    in_loss: Mapping[str, float] = field(default_factory=dict)
    """Label smoothing and scalars of the user's loss, with their values now."""
    settled: str = "gauss-newton"
    """How to find where training would settle: `gauss-newton`, `hessian`, `source` or `delta-stn`."""
    horizon: int | None = None
    """Steps of `source`."""
    damping: float | None = None
    """In mean eigenvalues of the curvature; None leaves the choice to the method."""
    only: str | None = None
    """The one hyperparameter that continued runs move; None moves each."""
    dropout_by_module: bool = False
    """Whether the dropout of each module is moved by itself too."""

    def moves(self, one: Hyperparameter) -> bool:
        """Whether it is moved and advised on: a whole and a group, and a module's dropout where that is asked for."""
        if one.place == "dropout" and self.dropout_by_module:
            return True
        return one.place != "rate" and (one.scope == EVERYWHERE or one.scope.startswith("group:"))


@dataclass
class Found:
    """What has been measured so far, by method."""

    request: Request
    optimizer: Optimizer
    values: Values
    unrolled: Unrolled | Missing = NOT_ASKED
    continued: dict[tuple[str, str], Continued | Missing] = field(default_factory=dict)
    """By name and scope."""
    implicit: Implicit | Missing = NOT_ASKED
    settled_stderr: dict[tuple[str, str, str], float | Missing] = field(default_factory=dict)
    """Of answers for weights at rest, by method, name and scope."""
    fitted: DeltaSTN | None = None

    def answers(self, one: Hyperparameter) -> HyperparameterAnswers:
        """What each method says of one hyperparameter, the next steps first, and no advice yet."""
        found, key = [], (one.name, one.scope)
        if self.request.steps:
            found.append(self._unrolled(one))
            if key in self.continued:
                found.append(self._continued(one, self.continued[key]))
        if self.fitted is not None and key in self.fitted.gradients and math.isfinite(self.fitted.unsettled):
            found.append(self._fitted(one, self.fitted))
        if one.place != "rate":
            found.append(self._settled(one))
        return HyperparameterAnswers(one.name, one.scope, one.value, None, tuple(found), None, None, NOT_ASKED)

    def _unrolled(self, one: Hyperparameter) -> MethodAnswer:
        slope: float | Missing
        if isinstance(self.unrolled, Missing):
            slope = self.unrolled
        elif one.place == "dropout":
            slope = Missing(Why.NOT_DEFINED, "masks have no derivative by their probability")
        elif one.place == "loss" and through_a_sign(self.optimizer.rule):
            slope = Missing(Why.NOT_DEFINED, f"{self.optimizer.name} steps by signs, which have no derivative")
        else:
            slope = one.per_unit(self.unrolled.at(one.place), self.values)
        return _answer(UNROLL, self.request.steps, one.value, slope)

    def _continued(self, one: Hyperparameter, moved: Continued | Missing) -> MethodAnswer:
        if isinstance(moved, Missing):
            return _answer(CONTINUED, self.request.steps, one.value, moved)
        smooth = Missing(Why.NOTHING_MOVES, "the move does not change the weights")
        return replace(
            _answer(CONTINUED, self.request.steps, one.value, moved.per_unit),
            stderr=ONE_PART if moved.stderr is None else moved.stderr,
            draws=moved.draws,
            metasmoothness=smooth if moved.metasmoothness is None else moved.metasmoothness,
        )

    def _fitted(self, one: Hyperparameter, fitted: DeltaSTN) -> MethodAnswer:
        return replace(
            _answer(DELTA_STN, None, one.value, fitted.gradients[one.name, one.scope]),
            stderr=self.settled_stderr.get((DELTA_STN, one.name, one.scope), NOT_ADVISED_BY),
            iterations=fitted.passes,
            residual=fitted.unsettled,
        )

    def _settled(self, one: Hyperparameter) -> MethodAnswer:
        method, found = self.request.settled, self.implicit
        method = "gauss-newton" if method == DELTA_STN else method
        if isinstance(found, Missing):
            return _answer(method, self.request.horizon, one.value, found)

        def slope(of: Derivatives | None) -> float | Missing:
            return NOT_OF_THIS_METHOD if of is None else one.per_unit(of.at(one.place), self.values)

        return replace(
            _answer(method, self.request.horizon, one.value, slope(found.answer)),
            stderr=self.settled_stderr.get((method, one.name, one.scope), NOT_ADVISED_BY),
            iterations=found.iterations,
            residual=found.answer.residual,
            negative_curvature=found.negative_curvature,
            less_damped=slope(found.tenth),
            more_damped=slope(found.tenfold),
        )


def _answer(method: str, horizon: int | None, value: float, slope: float | Missing) -> MethodAnswer:
    """A method's answer with nothing but its derivative."""
    none = NOT_OF_THIS_METHOD
    log = slope if isinstance(slope, Missing) else value * slope + 0.0  # no -0
    return MethodAnswer(method, horizon, slope, log, none, none, none, none, none, none, none, none)
