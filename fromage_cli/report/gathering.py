"""The answers about a run: `check` of all checkpoints, and what is drawn along the run at each."""

import time
from dataclasses import replace

from fromage_cli.diagnostics.check.asking import Inputs
from fromage_cli.errors import FromageError, ResourceError
from fromage_cli.report.figures import evenly
from fromage_cli.report.opening import Envelope
from fromage_cli.terminal import session
from fromage_cli.terminal.answer import Answer, Estimate, EstimateResult
from fromage_cli.terminal.envelope import answer_envelope

ALONG = ("state", "breakdown")
"""Commands that are asked at checkpoints along the run too, the cheaper first."""
MOST_ALONG = 8
"""Checkpoints along the run that they look at, evenly spaced: each takes as long as at the last one."""


def along_run(inputs: Inputs) -> list[str]:
    """The earlier checkpoints that ALONG are asked about, first to last."""
    earlier = [place for place in inputs.places[:-1] if place]
    return [earlier[at] for at in evenly(len(earlier), MOST_ALONG - 1)]


def estimate_run(inputs: Inputs) -> Estimate:
    """What `ask_run` takes: `check`, and ALONG again at each of the earlier checkpoints."""
    check = inputs.ask("check", ckpt=list(inputs.run), baseline=None, estimate=True)
    assert isinstance(check, Answer) and isinstance(check.result, EstimateResult)
    again, times = [price for name in ALONG if (price := inputs.price(name)) is not None], len(along_run(inputs))
    told = [check.result.estimate, *again * times]
    return Estimate.of_all(told)


def ask_run(inputs: Inputs) -> tuple[list[Envelope], list[Answer], FromageError | None]:
    """The answer of `check`, and of ALONG at earlier checkpoints, as envelopes too; and the error that ended it early.

    A command that does not work at a checkpoint is left out there. `check` judges the run: findings of the others are
    left out.
    """
    begun = time.perf_counter()
    check = inputs.ask("check", ckpt=list(inputs.run), baseline=None)
    assert isinstance(check, Answer)
    running, ended = session.current().circumstances, check.error
    asked = [check]
    told: list[Envelope] = [
        answer_envelope(check, replace(running, command="check", seconds=time.perf_counter() - begun))
    ]
    names = [name for name in ALONG if name in getattr(check.result, "looked", ())]
    for place in along_run(inputs):
        for name in names if ended is None else ():
            begun = time.perf_counter()
            try:
                answers = replace(inputs, run=[place], places=[place]).ask(name)
            except ResourceError as error:
                ended = error
            except FromageError:
                continue
            else:
                several = [answers] if isinstance(answers, Answer) else answers
                whole = [replace(one, findings=()) for one in several if isinstance(one, Answer)]
                took = replace(running, command=name, seconds=time.perf_counter() - begun)
                told += [answer_envelope(one, took) for one in whole]
                asked += whole
                ended = next((one.error for one in whole if one.error is not None), None)
    return told, asked, ended
