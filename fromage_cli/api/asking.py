"""A question asked from Python: the command itself is called, with the words that a shell would give it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromage_cli import ranks
from fromage_cli.api import live
from fromage_cli.cli import build_program
from fromage_cli.errors import FromageError, UsageError
from fromage_cli.intake.opening import OWN_WEIGHTS
from fromage_cli.terminal import failure, input_files, session
from fromage_cli.terminal.answer import Answer
from fromage_cli.terminal.flags import options as command_options
from fromage_cli.terminal.flags import snake_case
from fromage_cli.terminal.options import OutputOptions

if TYPE_CHECKING:
    import typer

    from fromage_cli.terminal.command import DiagnosticCommand

LIVE = ("model", "batch", "val_batch", "loss")
"""Options that name code, for which an object of the running program may stand."""
OF_THE_SHELL = {"nproc", "help", *(entry.name for entry in fields(OutputOptions))} - {"force"}
"""Options about processes, streams and files of answers; `force` is about pictures, too."""


def ask(name: str, places: Sequence[str | Path], options: Mapping[str, Any]) -> Answer:
    """What a command answers about these checkpoints, under options named as its flags.

    Raises every class of FromageError.
    """
    with called(name, places, options) as (command, context):
        answers = command.answer_to(context)
    answer = answers if isinstance(answers, Answer) else answers[0]
    if isinstance(answer, FromageError):
        raise answer
    # of a live network no factory of the user's made the weights
    return replace(answer, notes=tuple(note for note in answer.notes if places or note != OWN_WEIGHTS))


@contextmanager
def called(
    name: str, places: Sequence[str | Path], options: Mapping[str, Any]
) -> Iterator[tuple[DiagnosticCommand, typer.Context]]:
    """A command and its call with these options; whatever an error is, a FromageError is raised.

    Random generators, and torch's modes of gradients and precision, are afterwards as they were.
    """
    refused = sorted(set(options) & OF_THE_SHELL)
    if refused:
        raise UsageError(
            f"The option {refused[0]!r} belongs to the command line.",
            "Use str(report), report.result or report.findings instead.",
        )
    command = build_program().command(name)
    try:
        with ranks.scope(), session.scope(), input_files.watched(), torch_unchanged():
            objects, said = objects_and_options(options)
            repeatable = {snake_case(option) for option in command_options(command) if option.multiple}
            words = [*shell_words(said, repeatable), "--", *map(str, places)]
            unrepeatable = session.PROBLEM if objects else ()
            with live.standing_in(objects), command.called(words, unrepeatable) as context:
                yield command, context
    except FromageError:
        raise
    except Exception as error:  # typer's complaints among them, whose class is not ours to import
        raise failure.understood(error) from error


@contextmanager
def torch_unchanged() -> Iterator[None]:
    """Gradients are on and autocast is off within; generators that are drawn from are put back."""
    import torch

    from fromage_cli.problem.user_code.generators import Generators

    generators = Generators()
    with ExitStack() as stack:
        stack.callback(generators.restore)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def objects_and_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The objects of the running program by their options, and all options as a shell would have them."""
    chosen = {name: value for name, value in options.items() if value is not None}
    given = {name: value for name, value in chosen.items() if not (isinstance(value, str) and value == "auto")}
    objects = {name: given[name] for name in LIVE if name in given and not isinstance(given[name], str | Path)}
    if "model" in objects:
        objects["model"] = live.factory_of(objects["model"])
    if "loss" in objects:
        found = name_or_function(objects.pop("loss"), objects)
        given["loss"] = found
        if not isinstance(found, str):
            objects["loss"] = found
    return objects, given | {name: f"{live.__name__}:{name}" for name in objects}


def name_or_function(loss: Callable[..., Any], objects: Mapping[str, Any]) -> str | Callable[..., Any]:
    """The name of a loss that has one here, else its function of a network and a batch."""
    import torch

    from fromage_cli.bundle.saving import loss_of
    from fromage_cli.problem.data.batches import as_batch
    from fromage_cli.problem.losses.reported_losses import FunctionLoss
    from fromage_cli.problem.networks.models import converted

    if "model" not in objects or "batch" not in objects:
        raise UsageError(
            "A loss that is an object needs the network and the batch as objects, too.",
            "Give both, or name the loss: loss='cross-entropy' or loss='file.py:function'.",
        )
    network = converted(objects["model"](), torch.float32).to("cpu")  # as commands do; a forward pass may follow
    spec = loss_of(loss, network, as_batch(objects["batch"], "the call").to("cpu", torch.float32))
    return spec.function if isinstance(spec, FunctionLoss) else spec.name


def shell_words(options: Mapping[str, Any], repeatable: Collection[str]) -> Iterator[str]:
    """Options as they are typed: a flag alone for true, one with `no-` for false, and lists with commas.

    `repeatable`: options that are given again for each item of a list.
    """
    torch = sys.modules.get("torch")
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{'' if value else 'no-'}{flag}"
            continue
        items = [
            str(one).removeprefix("torch.") if torch is not None and isinstance(one, torch.dtype) else str(one)
            for one in (value if isinstance(value, list | tuple) else (value,))
        ]
        yield from (f"--{flag}={one}" for one in (items if name in repeatable else [",".join(items)]))
