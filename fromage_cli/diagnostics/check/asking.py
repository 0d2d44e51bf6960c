"""The commands that `check` asks, and with which of its own inputs each."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fromage_cli.checkpoints.storage.sharing import reads_shared
from fromage_cli.errors import FromageError
from fromage_cli.terminal.answer import Answer, Answers, Estimate, EstimateResult

SERIES = ("state", "norms", "intrinsic-lr")
"""Commands that are asked about all checkpoints; of the others `distance` gets two, and each other the last."""
OF_CHECK = {"probe": "none", "sharpness": False, "no_spectrum": True}
"""Options whose default takes too long here, short runs that train and singular values, or is asked of another."""

FILES_ALONE: Mapping[str, object] = {"model": None, "batch": None}
"""What a command gets that is to leave the network aside."""


@dataclass(frozen=True)
class Inputs:
    """What the user gave to `check`, by the names of options."""

    options: Mapping[str, object]
    run: Sequence[str]
    """Files, patterns and directories as the user named them."""
    places: Sequence[str]
    """Of the checkpoints that they stand for, first to last."""
    time_left: Callable[[], float | None] = lambda: None
    """Seconds until the time limit; None without one."""

    def ask(self, name: str, **instead: object) -> Answers:
        """What a command answers by itself, with those of these options that it has; `instead`: of some of them."""
        asked: Any = import_module(f"fromage_cli.diagnostics.{name.replace('-', '_')}.command").command
        last = self.places[-1]
        given = {**OF_CHECK, **self.options, "time_limit": self.time_left(), "ckpt": last, **instead}
        given |= {"first": self.places[-2], "second": last} if name == "distance" else {}
        given |= {"ckpt": list(self.run)} if name in SERIES else {"ckpt": [last]} if name == "inspect" else {}
        parameters = inspect.signature(asked).parameters.items()
        answers: Answers = asked(**{flag: given.get(flag, parameter.default) for flag, parameter in parameters})
        return answers

    def price(self, name: str) -> Estimate | None:
        """What the command tells of its cost; None where it does not."""
        try:
            with reads_shared(share=False):  # a trial on tensors that are known would take no time
                told = self.ask(name, estimate=True)
        except FromageError:
            return None
        last = told if isinstance(told, Answer) else told[-1]
        return last.result.estimate if isinstance(last, Answer) and isinstance(last.result, EstimateResult) else None
