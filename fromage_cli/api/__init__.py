"""The questions from Python: a live network, a bundle or a checkpoint in, the command's own numbers and page out.

Every option of a command is a keyword of its function, `--weight-decay` as `weight_decay`. Where an option names code,
an object may stand: `model` a module, `batch` and `val_batch` tensors in dicts, lists and tuples, `loss` a function.
Configuration and environment are not heard. Every failure is a FromageError.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from fromage_cli.api.report import Report
    from fromage_cli.checkpoints import Checkpoint
    from fromage_cli.problem.evaluation.problem import Problem


def open_checkpoint(path: str | Path, key: str | None = None, *, ema: bool | None = None) -> Checkpoint:
    """Open a checkpoint of any format, without running anything in it."""
    from fromage_cli.checkpoints import open_checkpoint

    return open_checkpoint(str(path), key, ema=ema)


def problem(
    subject: nn.Module | str | Path,
    /,
    batch: Any = None,
    loss: str | Callable[..., Any] = "auto",
    *,
    checkpoint: str | Path | None = None,
    mode: Literal["auto", "train", "eval"] = "auto",
    seed: int = 0,
    micro_batch: int | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    **options: Any,
) -> Problem:
    """The problem that commands measure: network, loss and batch under conditions that stay the same.

    `subject`: a module, which is copied and stays as it is; or the path of a bundle or a checkpoint. `checkpoint`: the
    weights of the copy come from there.
    """
    from fromage_cli.api.asking import called
    from fromage_cli.intake import open_problem
    from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions, assemble

    given = {"mode": mode, "seed": seed, "micro_batch": micro_batch, "device": device, "dtype": dtype, **options}
    places, named = _subject(subject, checkpoint, {"batch": batch, "loss": loss, **given})
    with called("breakdown", places, named) as (_, context):
        groups = (assemble(group, context.params) for group in (ModelOptions, BatchOptions, RunOptions))
        return open_problem(context.params["ckpt"], *groups).problem


def breakdown(
    subject: nn.Module | str | Path,
    /,
    batch: Any = None,
    loss: str | Callable[..., Any] = "auto",
    *,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Report:
    """How far may a step go before a layer's gradient no longer holds?"""
    return _on_a_network("breakdown", subject, checkpoint, {"batch": batch, "loss": loss, **options})


def suggest_lr(
    subject: nn.Module | str | Path,
    /,
    batch: Any = None,
    loss: str | Callable[..., Any] = "auto",
    *,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Report:
    """How far may the next step go, and which learning rate should I train at?"""
    return _on_a_network("suggest-lr", subject, checkpoint, {"batch": batch, "loss": loss, **options})


def sharpness(
    subject: nn.Module | str | Path,
    /,
    batch: Any = None,
    loss: str | Callable[..., Any] = "auto",
    *,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Report:
    """Is my learning rate stable for this network's curvature?"""
    return _on_a_network("sharpness", subject, checkpoint, {"batch": batch, "loss": loss, **options})


def hypergrad(
    subject: nn.Module | str | Path,
    /,
    batch: Any = None,
    loss: str | Callable[..., Any] = "auto",
    *,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Report:
    """Which way should weight decay, dropout and label smoothing move? The held-out rows are `val_batch`."""
    return _on_a_network("hypergrad", subject, checkpoint, {"batch": batch, "loss": loss, **options})


def norms(*checkpoints: str | Path, **options: Any) -> Report:
    """Do the norms of my layers grow, and when does it hurt?"""
    return _on_checkpoints("norms", *checkpoints, **options)


def intrinsic_lr(*checkpoints: str | Path, **options: Any) -> Report:
    """How long do norms take to settle under weight decay, and where is each layer now?"""
    return _on_checkpoints("intrinsic-lr", *checkpoints, **options)


def state(*checkpoints: str | Path, **options: Any) -> Report:
    """What does the optimizer's state say: how far each layer moves, and moments that cannot be?"""
    return _on_checkpoints("state", *checkpoints, **options)


def check(*checkpoints: str | Path, **options: Any) -> Report:
    """Is my run healthy: go on, look at this, or stop?"""
    return _on_checkpoints("check", *checkpoints, **options)


def inspect(checkpoint: str | Path, **options: Any) -> Report:
    """What is in this checkpoint?"""
    return _on_checkpoints("inspect", checkpoint, **options)


def distance(first: str | Path, second: str | Path, **options: Any) -> Report:
    """How far apart are two networks: each layer's weights and, with `model` and `batch`, the outputs?"""
    return _on_checkpoints("distance", first, second, **options)


def _on_a_network(
    command: str, subject: nn.Module | str | Path, checkpoint: str | Path | None, options: dict[str, Any]
) -> Report:
    places, named = _subject(subject, checkpoint, options)
    return _on_checkpoints(command, *places, **named)


def _subject(
    subject: nn.Module | str | Path, checkpoint: str | Path | None, options: dict[str, Any]
) -> tuple[list[str | Path], dict[str, Any]]:
    """The checkpoints and options of a question about a module, or about a path.

    Raises UsageError where both a path and another checkpoint are given.
    """
    from fromage_cli.errors import UsageError

    if not isinstance(subject, str | Path):
        return [checkpoint] if checkpoint is not None else [], {**options, "model": subject}
    if checkpoint is not None:
        raise UsageError(
            f"Two checkpoints were given: {str(subject)!r} and {str(checkpoint)!r}.", "Leave checkpoint= out."
        )
    return [subject], options


def _on_checkpoints(command: str, *checkpoints: str | Path, **options: Any) -> Report:
    from fromage_cli.api.asking import ask
    from fromage_cli.api.report import Report

    return Report(command, ask(command, checkpoints, options))
