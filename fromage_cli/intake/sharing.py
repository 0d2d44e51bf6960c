"""One network, batch and base gradient for several commands that open the same problem, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fromage_cli.errors import FromageError

if TYPE_CHECKING:
    from fromage_cli.intake.intake import Intake
    from fromage_cli.problem.conditions.budget import Budget
    from fromage_cli.problem.evaluation.problem import Problem

HELD_ENTRIES = 1 << 26
"""Entries of a base gradient that is held from one command to the next: 256 MB in float32."""


@dataclass
class _Opened:
    """A problem as it was opened, and as the last command left it."""

    intake: Intake
    trained: dict[str, bool]
    """Whether each parameter is trained, by name: a command may freeze some."""
    handed: Problem

    def again(self, budget: Budget) -> Intake:
        """The same problem for the next command, which counts its evaluations for itself."""
        from fromage_cli.problem.evaluation.problem import Base, Evaluations

        for name, parameter in self.intake.problem.model.named_parameters():
            parameter.requires_grad_(self.trained[name])
        problem = copy(self.intake.problem)
        problem.evaluations, problem.budget = Evaluations(), budget
        base = self.handed.__dict__.get("base")
        problem.micro_batch, problem.fitting = self.handed.micro_batch, self.handed.fitting
        whole = self.handed.frozen == problem.frozen
        if base is not None and whole and sum(one.numel() for one in base.gradients.values()) <= HELD_ENTRIES:
            for known in ("deferred", "at_first", "noisy"):
                setattr(problem, known, getattr(self.handed, known))
            problem.__dict__["base"] = Base(base.loss, dict(base.gradients))  # a command may release its gradients
        self.handed = problem
        return replace(self.intake, problem=problem)


_SHARED: ContextVar[dict[str, _Opened | FromageError] | None] = ContextVar("problems shared", default=None)


@contextmanager
def problems_shared() -> Iterator[None]:
    """Within it, what was opened before is neither read nor built again."""
    token = _SHARED.set({})
    try:
        yield
    finally:
        _SHARED.reset(token)


def shared(key: str, budget: Budget, open_anew: Callable[[], Intake]) -> Intake:
    """The problem of this key under this budget: opened before, where problems are shared, else opened anew.

    What could not be opened raises the same error again.
    """
    known = _SHARED.get()
    if known is None:
        return open_anew()
    if key not in known:
        try:
            intake = open_anew()
        except FromageError as error:
            known[key] = error
            raise
        trained = {name: parameter.requires_grad for name, parameter in intake.problem.model.named_parameters()}
        known[key] = _Opened(intake, trained, intake.problem)
    found = known[key]
    if isinstance(found, FromageError):
        raise found
    return found.again(budget)
