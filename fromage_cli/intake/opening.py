"""From parsed options to a Checkpoint and a Problem, for every command alike."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fromage_cli import ranks
from fromage_cli.counting import counted
from fromage_cli.errors import MismatchError, UsageError
from fromage_cli.findings import Finding
from fromage_cli.intake.intake import Intake
from fromage_cli.intake.saved_settings import naming_settings
from fromage_cli.intake.sharing import shared
from fromage_cli.shards import is_sharded
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions
from fromage_cli.terminal.progress import Work, progress
from fromage_cli.terminal.session import current, typed
from fromage_cli.terminal.words import visible

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fromage_cli.checkpoints import Checkpoint
    from fromage_cli.checkpoints.formats.bundle import Bundle
    from fromage_cli.problem.conditions.budget import Budget
    from fromage_cli.problem.conditions.evaluation import Mode
    from fromage_cli.problem.data.batches import Batch
    from fromage_cli.problem.user_code.declared import Declared


YOUR_FACTORY = "file.py:build"
BUILD = " In file.py, build() returns your network."
SAVED_UNDER_AUTOCAST = "The bundle was saved under autocast, so the passes run in bfloat16, as under --autocast."
NOT_COMPILED = "--compile: in training mode the network is not compiled, so that its random numbers stay the same."
OWN_WEIGHTS = "no checkpoint was given: the weights are those that the factory made."
ONE_HOT_TARGETS = Finding(
    code="one-hot-targets",
    severity="warn",
    message=(
        "every target is a single 1 among zeros, which looks like classes, but float targets get the squared error"
    ),
    hint="If the network was trained with it, give --loss cross-entropy; if not, --loss mse.",
)
"""Where a loss that nobody named is probably another one than in training."""
SUMMED_LOSS = Finding(
    code="loss-adds-up",
    severity="info",
    message="the loss is a sum over rows, not a mean: the loss of a part is scaled up to the whole batch",
    hint=("The numbers hold for training batches of this many rows. To measure the mean, return (sum, count)."),
)
"""Where gradients grow with the rows."""


def open_problem(
    ckpt: str | Checkpoint | None,
    model: ModelOptions,
    batch: BatchOptions,
    run: RunOptions,
    *,
    spare: int = 0,
    in_loss: Mapping[str, float] | None = None,
) -> Intake:
    """The problem that a checkpoint, a model, a batch and a loss make together, ready to be evaluated.

    `ckpt`: as the user named it, or opened already. What is not given on the command line is looked for beside the
    checkpoint, as data. Where batches come from an iterator, up to `spare` more of them are kept for training steps.
    `in_loss`: numbers that the user's loss takes by keyword.
    Raises every class of FromageError, each with what came, what was expected and what to do.
    """
    from fromage_cli.problem.conditions.budget import Budget

    budget = Budget(run.time_limit, run.max_memory)  # from here on: loading torch takes its time too
    place = ckpt if ckpt is None or isinstance(ckpt, str) else ckpt.place
    asked = (run.device, run.dtype, run.seed, run.autocast, run.recompute, run.compile, run.shard)
    key = repr((place, model, batch, *asked, spare, in_loss))
    options = (model, batch, run)
    return shared(key, budget, lambda: _open_anew(ckpt, options, budget, spare=spare, in_loss=in_loss))


def _open_anew(
    ckpt: str | Checkpoint | None,
    options: tuple[ModelOptions, BatchOptions, RunOptions],
    budget: Budget,
    *,
    spare: int,
    in_loss: Mapping[str, float] | None,
) -> Intake:
    model, batch, run = options
    checkpoint, declared = _opened(ckpt, model)  # what is not there is refused before torch is loaded
    if run.shard:
        require_shards(checkpoint, run)
    with progress("loading torch"):
        import torch

        from fromage_cli.problem.evaluation.fitting import fitted
        from fromage_cli.problem.evaluation.problem import Problem
        from fromage_cli.problem.losses.bundled import bundled_loss
        from fromage_cli.problem.losses.losses import are_one_hot, resolve_loss
        from fromage_cli.problem.losses.summed_loss import SummedLoss, recognise_sum

    device, dtype = torch_device(run.device), getattr(torch, run.dtype)
    budget.confine(device)
    unnamed = {"model": model.model is None, "loss": batch.loss == "auto"}
    declared.check(*(name for name, left_open in unnamed.items() if left_open))
    build = partial(_built, model, run, checkpoint, declared)
    network, description, noted = _network(build, checkpoint, model, run)
    notes = (*(checkpoint.notes if checkpoint is not None else ()), *declared.notes, *noted)
    with progress("reading the batch"):
        saved_in = bundle_at_hand(checkpoint, network)
        loaded = _load_batches(batch, declared, saved_in, trust=model.trust, seed=run.seed, spare=spare)
    data, *further = [found.to(device, dtype) for found in loaded[: batch.batches]]
    rest = loaded[batch.batches :]
    mode = cast("Mode", declared.mode if batch.mode == "auto" and declared.mode else batch.mode)
    narrow = saved_in is not None and saved_in.manifest.get("autocast") in ("bfloat16", "float16")
    notes += (SAVED_UNDER_AUTOCAST,) if narrow and not run.autocast else ()
    notes += (NOT_COMPILED,) if run.compile and mode == "train" else ()
    named = batch.loss != "auto" or declared.loss is None
    spec = batch.loss if named else cast(str, declared.loss)
    users = None
    if spec == "auto" and saved_in is not None:
        spec, users = bundled_loss(saved_in, network)
    if users is not None and in_loss:
        raise UsageError("The loss in a bundle takes no arguments.", "Give --loss file.py:function with --model.")
    loss, *_ = [  # labels and shapes of every batch are checked
        users
        or resolve_loss(
            spec,
            network,
            one.to(device, dtype),
            mode=mode,
            seed=run.seed,
            hyperparameters=in_loss,
            allow_code=named or model.trust,
        )
        for one in (data, *further, *rest)
    ]
    require_one_problem(network, loaded)
    loss = recognise_sum(loss, network, data, mode=mode, seed=run.seed)
    problem = Problem(
        network,
        loss,
        data,
        mode=mode,
        seed=run.seed,
        further=tuple(further),
        spare=tuple(rest),
        micro_batch=batch.micro_batch,
        autocast=run.autocast or narrow,
        compiled=run.compile,
        budget=budget,
    )
    evaluations = problem.evaluations
    evaluations.doing = "checking that the loss is the same when computed twice"
    with progress("", work=Work(lambda: 0.0, lambda: evaluations.doing)):  # it says what goes on before the measuring
        fitted(problem, problem.require_steadiness)
    several = f"{len(problem.batches)} batches, " if further else ""
    rows = f"batch: {several}{counted(problem.rows, 'row')} from {data.source}; loss: {loss.name}; mode: {mode}"
    doubts = [SUMMED_LOSS] if isinstance(loss, SummedLoss) else []
    doubts += [ONE_HOT_TARGETS] if spec == "auto" and loss.name == "mse" and are_one_hot(network, data) else []
    return Intake(
        problem,
        checkpoint,
        declared,
        description,
        notes,
        build=lambda seed: build(seed)[0],
        findings=tuple(doubts),
        network=model.model or declared.model or "auto",
        details=(*(checkpoint.picked if checkpoint is not None else ()), f"model: {description}", rows),
    )


def names_network(checkpoint: Checkpoint, model: ModelOptions, batch: BatchOptions) -> bool:
    """Whether a network is at hand: one is named for this command, or the checkpoint is a bundle that holds one."""
    from fromage_cli.checkpoints.formats.bundle import read_bundle

    if model.model is not None or (batch.batch is not None and typed("batch")):  # a configuration names it for others
        return True
    return checkpoint.bundle is not None and read_bundle(checkpoint.bundle).has_graph


def bundle_at_hand(checkpoint: Checkpoint | None, network: nn.Module) -> Bundle | None:
    """The bundle that the network was built from, else the one that the weights are of."""
    from fromage_cli.checkpoints.formats.bundle import read_bundle
    from fromage_cli.problem.graphs.reading import bundle_of

    found = bundle_of(network)
    if found is not None:
        return found[0]
    return read_bundle(checkpoint.bundle) if checkpoint is not None and checkpoint.bundle is not None else None


def require_shards(checkpoint: Checkpoint | None, run: RunOptions) -> None:
    """Raise UsageError where the weights cannot be shared: by one process, without a checkpoint, in compiled code."""
    if run.compile:
        raise UsageError("--compile and --shard do not go together.", "Leave --compile out.")
    if not ranks.current().several:
        raise UsageError(
            "--shard shares the weights among processes, and there is only one.", "Give --nproc N as well."
        )
    if checkpoint is None:
        raise UsageError(
            "--shard reads each process's part of the weights from a checkpoint, and none was given.",
            "Give CKPT, or leave --shard out.",
        )


def _network(
    build: Callable[[int], tuple[nn.Module, str]],
    checkpoint: Checkpoint | None,
    model: ModelOptions,
    run: RunOptions,
) -> tuple[nn.Module, str, tuple[str, ...]]:
    """The network with its weights, how it is described, and what the user should know of the weights."""
    import torch

    from fromage_cli.checkpoints.formats.bundle import OPTIMIZER, WEIGHTS, read_bundle
    from fromage_cli.problem.networks.models import converted
    from fromage_cli.problem.networks.unsupported import refuse_unsupported
    from fromage_cli.problem.networks.weights import load_weights

    device = torch_device(run.device)
    if run.shard:
        from fromage_cli.problem.evaluation.shard_check import require_right_products
        from fromage_cli.problem.networks.sharding import share_weights, spread, without_memory

        require_right_products(device)
    with progress("building the network"), without_memory() if run.shard else nullcontext():
        try:
            network, description = build(run.seed)
        except MismatchError as error:
            if not run.shard:
                raise
            hint = (
                "With --shard parameters have no memory while the network is built. Their values cannot be read or set."
            )
            raise MismatchError(error.message, f"{error.hint}\n{hint}", error.details) from error
    if checkpoint is not None and checkpoint.bundle is not None:
        read_bundle(checkpoint.bundle).verify(WEIGHTS, OPTIMIZER)
    refuse_unsupported(network)
    converted(network, getattr(torch, run.dtype))
    if run.shard:
        spread(network, device)
    try:
        notes = load_weights(network, checkpoint) if checkpoint is not None else (OWN_WEIGHTS,)
    except MismatchError as error:
        if checkpoint is None or model.model in (None, "auto", "hf"):
            raise
        raise naming_settings(error, checkpoint) from error
    network.to(device)
    if run.shard:
        share_weights(network)
    return network, description, notes


def _built(
    model: ModelOptions, run: RunOptions, checkpoint: Checkpoint | None, declared: Declared, seed: int
) -> tuple[nn.Module, str]:
    """The network with weights drawn from a seed, computing as asked for, and how it is described."""
    from fromage_cli.problem.networks.compilation import compile_network
    from fromage_cli.problem.networks.models import build_model
    from fromage_cli.problem.networks.recomputation import recompute_activations

    network, description = build_model(model.model or "auto", model.model_arguments, checkpoint, declared, seed=seed)
    if run.recompute:
        recompute_activations(network)
    if run.compile:
        compile_network(network)
    return network, description


def require_one_problem(network: nn.Module, batches: Sequence[Batch]) -> None:
    """Raise MismatchError on every rank where one of them has another batch or network than the first."""
    from fromage_cli.problem.data.pytrees import checksum, named_tensors

    together = ranks.current()
    if together.several:
        rows = [each for place, one in enumerate(batches) for each in named_tensors(one.data, f"{place}")]
        together.require_same("batch", checksum(rows))
        tensors = [*network.named_parameters(), *network.named_buffers()]
        together.require_same(
            "network", checksum([(name, tensor) for name, tensor in tensors if not is_sharded(tensor)])
        )


def _opened(ckpt: str | Checkpoint | None, model: ModelOptions) -> tuple[Checkpoint | None, Declared]:
    """The checkpoint where there is one, and what is declared in it and beside it."""
    from fromage_cli.checkpoints import open_checkpoint
    from fromage_cli.problem.user_code.declared import Declared

    if ckpt is None and model.model in (None, "auto"):
        raise UsageError(
            "Neither a checkpoint nor a model was given.",
            "Give CKPT, or give --model file.py:factory to measure a network with the weights that the factory makes.",
        )
    if isinstance(ckpt, str):
        ckpt = open_checkpoint(
            ckpt,
            model.key,
            ema=model.ema,
            optimizer_state=model.optimizer_state,
            optimizer_key=model.optimizer_key,
        )
    return ckpt, declared_by(ckpt, model.trust) if ckpt is not None else Declared()


def declared_by(checkpoint: Checkpoint, trust: bool) -> Declared:
    """What a checkpoint's metadata and the file beside it declare; code only under `--trust`.

    Beside a remote checkpoint only that file is fetched, not the batch that it may name.
    """
    from fromage_cli.problem.user_code.declared import declared_beside

    declared = declared_beside(checkpoint.path, checkpoint.metadata, opened=checkpoint.weights, trust=trust)
    said = any(declared.source is not None and path.samefile(declared.source) for path in current().project.skipped)
    if declared.foreign and not said:
        keys = ", ".join(map(visible, declared.foreign))
        note = f"{declared.source} lies beside the checkpoint and may hold data only; not used: {keys}"
        declared = replace(declared, notes=(*declared.notes, note))
    return declared if checkpoint.url is None else replace(declared, batch=None)


def likely_problem(checkpoint: Checkpoint, declared: Declared) -> str:
    """The options of a model and a batch that likely fit a checkpoint, to be typed."""
    from fromage_cli.checkpoints.finding.trainer_files import settings_beside

    model = "auto" if declared.activation is not None else YOUR_FACTORY
    if "config.json" in settings_beside(checkpoint.weights or checkpoint.path):
        model = "hf"
    return f" --model {model}{'' if declared.batch is not None else ' --batch FILE'}"


def breakdown_towards(first: str, second: str) -> str:
    """The command, to be typed, that goes from one checkpoint towards another; without the network's options."""
    return f"fromage-diag breakdown {shlex.quote(first)} --direction {shlex.quote(f'to:{second}')}"


def torch_device(name: str) -> torch.device:
    """The device of that name; `auto` is a CUDA device where there is one, for each rank its own, else the CPU.

    Raises UsageError for a CUDA device that is not there.
    """
    import torch

    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", ranks.current().local % torch.cuda.device_count())
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name} was asked for, but this machine has {counted(torch.cuda.device_count(), 'CUDA device')}.",
            "Give --device cpu or --device auto.",
        )
    return device


def _load_batches(
    options: BatchOptions, declared: Declared, saved_in: Bundle | None, *, trust: bool, seed: int, spare: int
) -> list[Batch]:
    from fromage_cli.checkpoints.formats.bundle import is_bundle, read_bundle
    from fromage_cli.problem.data.batches import load_batches
    from fromage_cli.problem.graphs.reading import bundled_batch

    if options.batch is not None:
        saved_in = read_bundle(Path(options.batch)) if is_bundle(Path(options.batch)) else None
    if saved_in is not None:
        return [bundled_batch(saved_in)]
    if options.batch is None:
        declared.check("batch")
    spec = options.batch or declared.batch
    if spec is None:
        raise UsageError(
            "No batch was given, and no file beside the checkpoint names one.",
            "Give --batch FILE (.safetensors, .npz or .pt) or --batch file.py:function.\n"
            "For tokens give --batch tokens.bin --seq-len 64 --sequences 16.\n"
            'Or write batch = "FILE" into fromage.toml beside the checkpoint.',
        )
    here = f"{Path.cwd()}/"
    return load_batches(
        spec.removeprefix(here),  # a path below the working directory as seen from there
        count=options.batches,
        spare=spare,
        sequence_length=options.seq_len,
        sequences=options.sequences,
        seed=seed,
        allow_code=trust or options.batch is not None,
    )
