"""From parsed options to a Checkpoint and a Problem, for every command alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fromage_cli.errors import UsageError
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, CheckpointRecord, ProblemRecord, Provenance
from fromage_cli.terminal.optimizer_options import OptimizerOptions
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fromage_cli.checkpoints import Checkpoint
    from fromage_cli.probes.optimizer_step.optimizer import Given, Optimizer
    from fromage_cli.problem.batches import Batch
    from fromage_cli.problem.beside import Declared
    from fromage_cli.problem.evaluation import Mode
    from fromage_cli.problem.layers import TrainableTensor
    from fromage_cli.problem.problem import Problem


OWN_WEIGHTS = "no checkpoint: the weights are those that the factory made."


@dataclass(frozen=True)
class Intake:
    """What a command on one checkpoint starts from, and what it must say about it."""

    problem: Problem
    checkpoint: Checkpoint | None
    declared: Declared
    model: str
    """How the model is described."""
    notes: tuple[str, ...]
    build: Callable[[int], nn.Module]
    """Makes the network again, its weights drawn from a seed."""
    findings: tuple[Finding, ...] = ()
    """What is doubtful before anything is measured."""

    def rebuilt(self) -> Problem | None:
        """The same problem on the network as its factory makes it; None where no factory draws weights.

        Evaluations and limits are counted together.
        """
        from fromage_cli.problem.models import converted, fresh_model

        model = fresh_model(self.build, self.problem.seed)
        if model is None:
            return None
        return replace(self.problem, model=converted(model, self.problem.dtype).to(self.problem.device), saved=None)

    def trained_layers(self, names: Collection[str]) -> dict[str, TrainableTensor]:
        """The model's layers by the checkpoint's names, as far as those are among `names`, in their order.

        Raises UsageError where the model trains none of them.
        """
        from fromage_cli.problem.weights import stored_names

        if self.checkpoint is None:
            return {}
        first = {name: group[0] for group in self.checkpoint.tied for name in group}
        stored = stored_names(self.problem.model, self.checkpoint, self.problem.layers)
        layers = {first.get(stored[layer.name], stored[layer.name]): layer for layer in self.problem.layers}
        found = {name: layers[name] for name in names if name in layers}
        if not found:
            raise UsageError(
                f"No layer is left: the model trains none of {', '.join(list(names)[:3])}.",
                hint="Name others with --include, or let the factory return the model with requires_grad=True on them.",
            )
        return found

    def optimizer(self, options: OptimizerOptions) -> Optimizer:
        """The optimizer from the flags, the checkpoint's state and what is declared.

        Raises UsageError for a flag that this optimizer does not take.
        """
        from fromage_cli.probes.optimizer_step.optimizer import optimizer_of

        state = self.checkpoint.optimizer if self.checkpoint is not None else None
        found = optimizer_of(given_settings(options), state, self.declared)
        options.check_for(found.name)
        return found

    def reload_weights(self) -> None:
        """Let displaced weights be read from the checkpoint again instead of being kept.

        Raises UsageError where there is no checkpoint.
        """
        from fromage_cli.problem.weights import weight_reader

        if self.checkpoint is None:
            raise UsageError("--reload reads weights from a checkpoint, and none is given.", "Leave --reload out.")
        self.problem.saved = weight_reader(self.problem.model, self.checkpoint)

    def complete(self, answer: Answer) -> Answer:
        """The answer with what it was computed from, and what that took so far."""
        return replace(
            answer,
            checkpoints=self.checkpoints,
            problem=self.record,
            provenance=provenance(self.problem),
            notes=(*self.notes, *answer.notes),
            findings=(*self.findings, *answer.findings),
            settings={**self.settings, **answer.settings},
        )

    @property
    def checkpoints(self) -> tuple[CheckpointRecord, ...]:
        """The checkpoint as the envelope names it."""
        return (checkpoint_record(self.checkpoint),) if self.checkpoint is not None else ()

    @property
    def record(self) -> ProblemRecord:
        """The problem as the envelope names it."""
        problem = self.problem
        return ProblemRecord(
            model=self.model,
            loss=problem.loss.name,
            batch_size=problem.rows,
            mode=problem.mode,
            seed=problem.seed,
            layer_count=len(problem.layers),
        )

    @property
    def settings(self) -> Mapping[str, object]:
        """What the flags became."""
        return {
            "mode": self.problem.mode,
            "device": str(self.problem.device),
            "loss": self.problem.loss.name,
            "batch": self.problem.batch.source,
            "model": self.model,
        }


def open_problem(
    ckpt: str | Checkpoint | None, model: ModelOptions, batch: BatchOptions, run: RunOptions, *, spare: int = 0
) -> Intake:
    """The problem that a checkpoint, a model, a batch and a loss make together, ready to be evaluated.

    `ckpt`: as the user named it, or opened already. What is not given on the command line is looked for beside the
    checkpoint, as data. Where batches come from an iterator, up to `spare` more of them are kept for training steps.
    Raises every class of FromageError except ResourceError, each with what came, what was expected and what to do.
    """
    from fromage_cli.problem.budget import Budget

    budget = Budget(run.time_limit, run.max_memory)  # from here on: loading torch takes its time too
    import torch

    from fromage_cli.checkpoints import Checkpoint, open_checkpoint
    from fromage_cli.problem.beside import Declared
    from fromage_cli.problem.losses import resolve_loss
    from fromage_cli.problem.models import build_model, converted
    from fromage_cli.problem.problem import Problem
    from fromage_cli.problem.support import refuse_unsupported
    from fromage_cli.problem.weights import load_weights

    device, dtype = torch_device(run.device), getattr(torch, run.dtype)
    _require_something(ckpt, model)
    checkpoint = ckpt if isinstance(ckpt, Checkpoint) else None
    if isinstance(ckpt, str):
        checkpoint = open_checkpoint(ckpt, model.key, ema=model.ema, optimizer_state=model.optimizer_state)
    declared = declared_by(checkpoint, model.trust) if checkpoint is not None else Declared()

    def build(seed: int) -> tuple[nn.Module, str]:
        return build_model(model.model or "auto", model.model_arguments, checkpoint, declared, seed=seed)

    network, description = build(run.seed)
    notes = (f"model: {description}", *(checkpoint.notes if checkpoint is not None else ()))
    refuse_unsupported(network)
    converted(network, dtype)
    notes += load_weights(network, checkpoint) if checkpoint is not None else (OWN_WEIGHTS,)
    network.to(device)
    loaded = _load_batches(batch, declared, model.trust, run.seed, spare)
    data, *further = [found.to(device, dtype) for found in loaded[: batch.batches]]
    rest = loaded[batch.batches :]
    mode = cast("Mode", declared.mode if batch.mode == "auto" and declared.mode else batch.mode)
    given = batch.loss != "auto" or declared.loss is None
    spec = batch.loss if given else cast(str, declared.loss)
    loss = resolve_loss(
        spec,
        network,
        data,
        mode=mode,
        seed=run.seed,
        allow_code=given or model.trust,
    )
    for other in (*further, *rest):  # labels and shapes of every batch are checked
        resolve_loss(spec, network, other.to(device, dtype), mode=mode, seed=run.seed, allow_code=given or model.trust)
    problem = Problem(
        network,
        loss,
        data,
        mode=mode,
        seed=run.seed,
        further=tuple(further),
        spare=tuple(rest),
        micro_batch=batch.micro_batch,
        autocast=run.autocast,
        budget=budget,
    )
    notes += (f"batch: {_counted(problem)} from {data.source}; loss: {loss.name}; mode: {mode}",)
    doubts = _doubts(problem) if spec == "auto" else ()
    return Intake(problem, checkpoint, declared, description, notes, lambda seed: build(seed)[0], doubts)


def _doubts(problem: Problem) -> tuple[Finding, ...]:
    """Where a loss that nobody named is probably another one than in training."""
    from fromage_cli.problem.losses import are_one_hot

    if problem.loss.name != "mse" or not are_one_hot(problem.model, problem.batch):
        return ()
    return (
        Finding(
            code="one-hot-targets",
            severity="warn",
            message="every target is a single 1 among zeros, as classes are often written, yet of floating targets the "
            "squared error is taken",
            hint="Give --loss cross-entropy where the network was trained with it, else --loss mse.",
        ),
    )


def open_run(last: Checkpoint, model: ModelOptions, batch: BatchOptions, run: RunOptions) -> Intake | None:
    """The last checkpoint of a run in its model, where a model or a batch is given, for layers to be scaled in it.

    Raises UsageError under `--autocast`, and what `open_problem` raises.
    """
    if model.model is None and batch.batch is None:
        return None
    if run.autocast:
        raise UsageError(
            "--autocast rounds to three digits; scale invariance shows only in more.", hint="Leave --autocast out."
        )
    return open_problem(last, model, batch, run)


def given_settings(options: OptimizerOptions) -> Given:
    """What the user said of the optimizer."""
    from fromage_cli.probes.optimizer_step.optimizer import Given

    return Given(
        options.optimizer,
        options.lr,
        options.momentum,
        options.nesterov,
        options.beta_pair,
        options.weight_decay,
    )


def provenance(problem: Problem) -> Provenance:
    """What was computed on a problem so far, and where."""
    evaluations = problem.evaluations
    return Provenance(
        device=str(problem.device),
        dtype=str(problem.dtype).removeprefix("torch."),
        gradient_evaluations=evaluations.gradients,
        forward_evaluations=evaluations.forwards,
        hvp_evaluations=evaluations.hessian_vector_products,
    )


def declared_by(checkpoint: Checkpoint, trust: bool) -> Declared:
    """What a checkpoint's metadata and the file beside it declare; code only under `--trust`."""
    from fromage_cli.problem.beside import declared_beside

    return declared_beside(checkpoint.path, checkpoint.metadata, opened=checkpoint.weights, trust=trust)


def checkpoint_record(checkpoint: Checkpoint) -> CheckpointRecord:
    """A checkpoint as the envelope names it."""
    return CheckpointRecord(
        path=checkpoint.url or str(checkpoint.weights or checkpoint.path),
        format=checkpoint.format,
        step=checkpoint.step,
        parameters=checkpoint.parameters,
        stripped=checkpoint.stripped,
    )


def torch_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first CUDA device where there is one, else the CPU.

    Raises UsageError for a CUDA device that is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here.", "Use --device cpu, or auto."
        )
    return device


def _require_something(ckpt: str | Checkpoint | None, model: ModelOptions) -> None:
    if ckpt is None and model.model in (None, "auto"):
        raise UsageError(
            "There is neither a checkpoint nor a model.",
            "Give CKPT, or --model file.py:factory for a network with weights of its own.",
        )


def _load_batches(options: BatchOptions, declared: Declared, trust: bool, seed: int, spare: int) -> list[Batch]:
    from fromage_cli.problem.batches import load_batches

    spec = options.batch or declared.batch
    if spec is None:
        raise UsageError(
            "There is no batch: none was given, and none is declared beside the checkpoint.",
            "Give --batch FILE (.safetensors, .npz, .pt) or --batch file.py:function, "
            'or put batch = "FILE" into fromage.toml beside the checkpoint.',
        )
    return load_batches(
        _short(spec),
        count=options.batches,
        spare=spare,
        sequence_length=options.seq_len,
        sequences=options.sequences,
        seed=seed,
        allow_code=trust or options.batch is not None,
    )


def _counted(problem: Problem) -> str:
    several = f"{len(problem.batches)} batches, " if problem.further else ""
    return f"{several}{problem.rows} rows"


def _short(spec: str) -> str:
    """A path below the working directory as seen from there; anything else as it is."""
    return str(Path(spec).relative_to(Path.cwd())) if spec.startswith(f"{Path.cwd()}/") else spec
