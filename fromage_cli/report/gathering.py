"""The answers about a run: `check` of all checkpoints, and what is drawn along the run at each."""

from dataclasses import replace

from fromage_cli.diagnostics.check.asking import Inputs
from fromage_cli.errors import FromageError, ResourceError
from fromage_cli.report.figures import evenly
from fromage_cli.report.opening import Envelope
from fromage_cli.terminal import session
from fromage_cli.terminal.answer import Answer
from fromage_cli.terminal.envelope import answer_envelope

ALONG = ("state", "breakdown")
"""Commands that are asked at checkpoints along the run too, the cheaper first."""
MOST_ALONG = 8
"""Checkpoints along the run that they look at, evenly spaced: each takes as long as at the last one."""


def ask_run(inputs: Inputs) -> tuple[list[Envelope], FromageError | None]:
    """The answer of `check`, and of ALONG at earlier checkpoints, as envelopes; and the error that ended it early.

    A command that does not work at a checkpoint is left out there.
    """
    check = inputs.ask("check", ckpt=list(inputs.run), baseline=None)
    assert isinstance(check, Answer)
    earlier = [place for place in inputs.places[:-1] if place]
    told, ended = [(check, "check")], check.error
    names = [name for name in ALONG if name in getattr(check.result, "looked", ())]
    for place in (earlier[at] for at in evenly(len(earlier), MOST_ALONG - 1)):
        for name in names if ended is None else ():
            try:
                answers = replace(inputs, run=[place], places=[place]).ask(name)
            except ResourceError as error:
                ended = error
            except FromageError:
                continue
            else:
                several = [answers] if isinstance(answers, Answer) else answers
                told += [(one, name) for one in several if isinstance(one, Answer)]
    running = session.current().circumstances
    return [answer_envelope(one, replace(running, command=name)) for one, name in reversed(told)], ended
