"""What a command starts from, and what it must say about it in its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from fromage_cli import stopping
from fromage_cli.checkpoints.names.library_files import METADATA
from fromage_cli.counting import counted, first_names
from fromage_cli.errors import ResourceError, UsageError
from fromage_cli.findings import Finding
from fromage_cli.problem.user_code.forms import BUILT_IN_LOSSES
from fromage_cli.process_memory import peak_device_memory, peak_memory
from fromage_cli.terminal.answer import Answer, CheckpointRecord, EstimateResult, NoiseRecord, ProblemRecord, Provenance
from fromage_cli.terminal.optimizer_options import OptimizerOptions
from fromage_cli.terminal.session import typed

if TYPE_CHECKING:
    from torch import nn

    from fromage_cli.checkpoints import Checkpoint
    from fromage_cli.optimizers.settings import Given, Optimizer
    from fromage_cli.problem.evaluation.problem import Problem
    from fromage_cli.problem.networks.layers import TrainableTensor
    from fromage_cli.problem.user_code.declared import Declared

ONE_DRAW = "The network draws random numbers in its forward pass. These numbers are from one draw (seed {seed})."


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
    details: tuple[str, ...] = ()
    """What the header of a page says in short: the model, and the batch with its loss and mode."""
    network: str = "auto"
    """The model as `--model` takes it."""
    frozen: tuple[str, ...] = ()
    """Tensors that do not move here because they never moved in training."""

    @property
    def trained(self) -> bool | None:
        """Whether the weights are past their initialisation; None where the checkpoint does not say."""
        if self.checkpoint is None:
            return False
        step, state = self.checkpoint.step, self.checkpoint.optimizer
        if step is not None:
            return step > 0
        return None if state is None else (state.steps or 0) > 0

    def rebuilt(self, seed: int = 0) -> Problem | None:
        """The same problem on the network as its factory makes it; None where no factory draws weights.

        `seed`: which of the weights that it may draw.

        Evaluations and limits are counted together.
        """
        from fromage_cli.problem.networks.layers import freeze
        from fromage_cli.problem.networks.models import converted, fresh_model

        if self.problem.ranks.sharded:  # whose new weights no rank could hold
            return None
        model = fresh_model(self.build, self.problem.seed + seed)
        if model is None:
            return None
        freeze(model, self.frozen)
        return replace(self.problem, model=converted(model, self.problem.dtype).to(self.problem.device), saved=None)

    def as_trained(self) -> Intake:
        """The same with the tensors frozen that the checkpoint's optimizer never updated, beside others that it did."""
        from fromage_cli.checkpoints.optimizers.matching import never_updated
        from fromage_cli.problem.networks.layers import freeze

        state = self.checkpoint.optimizer if self.checkpoint is not None else None
        shapes = {tensor.name: tuple(tensor.parameter.shape) for tensor in self.problem.trainable}
        names = never_updated(state, shapes) if state is not None else []
        if not 0 < len(names) < len(shapes):
            return self
        freeze(self.problem.model, names)
        words = f"optimizer: by its state {counted(len(names), 'tensor')} never moved, and so none moves here: "
        note = f"{words}{first_names(names)}. To move them, give --optimizer-state none."
        return replace(self, problem=replace(self.problem), notes=(*self.notes, note), frozen=tuple(names))

    def trained_layers(self, names: Sequence[str]) -> tuple[dict[str, TrainableTensor], tuple[str, ...]]:
        """The model's layers by the checkpoint's names, those among `names` in their order, and a note on the others.

        Raises UsageError where the model trains none of them.
        """
        from fromage_cli.checkpoints.layers import left_out
        from fromage_cli.problem.networks.weights import remade_names, stored_names

        if self.checkpoint is None:
            return {}, ()
        first = {name: group[0] for group in self.checkpoint.tied for name in group}
        stored = stored_names(self.problem.model, self.checkpoint, self.problem.layers)
        layers = {first.get(stored[layer.name], stored[layer.name]): layer for layer in self.problem.layers}
        found = {name: layers[name] for name in names if name in layers}
        if not found:
            raise UsageError(
                f"No layer is left: the model trains none of {', '.join(names[:3])}.",
                hint=(
                    "Choose other layers with --include. Or let the factory return the model with "
                    "requires_grad=True on these."
                ),
            )
        tied = [alias for layer in found.values() if layer.aliases for alias in (layer.name, *layer.aliases)]
        shorter = [rest for alias in tied if "." in (rest := alias.partition(".")[2])]
        endings = tuple(f".{name}" for name in (*tied, *shorter))
        others = [name for name in names if name not in found and not f".{name}".endswith(endings)]
        remade = remade_names(self.problem.model, self.checkpoint, others)
        untrained = [name for name in others if name not in remade]
        return found, (
            *left_out(remade, "that transformers merges or splits into other tensors"),
            *left_out(untrained, "that the model does not train"),
        )

    def optimizer(self, options: OptimizerOptions) -> Optimizer:
        """The optimizer from the flags, the checkpoint's state and what is declared.

        Raises UsageError for a flag that this optimizer does not take.
        """
        from fromage_cli.optimizers.settings import find_settings

        state = self.checkpoint.optimizer if self.checkpoint is not None else None
        saved = state.settings_for(options.optimizer) if state is not None else None
        found = find_settings(given_settings(options), saved, self.declared.optimizer)
        options.check_for(found.name)
        return found

    def reload_weights(self) -> None:
        """Let displaced weights be read from the checkpoint again instead of being kept.

        Raises UsageError where there is no checkpoint.
        """
        from fromage_cli.problem.networks.weights import weight_reader

        if self.checkpoint is None:
            raise UsageError(
                "--reload reads the weights from a checkpoint again, and no checkpoint was given.",
                "Leave --reload out, or give CKPT.",
            )
        self.problem.saved = weight_reader(self.problem.model, self.checkpoint)

    def complete(self, answer: Answer) -> Answer:
        """The answer with what it was computed from, and what that took so far.

        Where the network draws random numbers, other draws are measured too: four gradients. Raises MismatchError where
        the loss is no longer what it was before.
        """
        noise = None
        if not isinstance(answer.result, EstimateResult):
            noise = self._noise_of_draws()
            if self.problem.at_first is not None:
                with suppress(ResourceError):  # where the user's code was interrupted, nothing more can be evaluated
                    self.problem.require_steadiness()
        drawn = (ONE_DRAW.format(seed=self.problem.seed),) if self.problem.noisy else ()
        return replace(
            answer,
            checkpoints=self.checkpoints,
            problem=replace(self.record, noise=noise),
            provenance=provenance(self.problem),
            header=(*self.header, *answer.header),
            notes=(*self.notes, *self.problem.fitting, *drawn, *answer.notes),
            details=(*self.details, *answer.details),
            findings=(*self.findings, *([one_draw_of_many(noise)] if noise is not None else []), *answer.findings),
            settings={**self.settings, **answer.settings},
        )

    def _noise_of_draws(self) -> NoiseRecord | None:
        """The spread over draws; None where none matters, or a limit ends the measurement."""
        if not self.problem.noisy:
            return None
        from fromage_cli.probes.lines.draws import measure_draw_spread

        try:
            return NoiseRecord(**asdict(measure_draw_spread(self.problem)))
        except ResourceError:
            return None

    @property
    def header(self) -> tuple[str, ...]:
        """The checkpoint, the model and the rows in a few words each."""
        from fromage_cli.problem.graphs.network import class_name

        rows, batches = counted(self.problem.rows, "row"), len(self.problem.batches)
        layers = len(self.problem.layers)
        return (
            *(short_place(record) for record in self.checkpoints),
            f"{class_name(self.problem.model)}, {layers} weight {'matrix' if layers == 1 else 'matrices'}",
            rows if batches == 1 else f"{rows} in {batches} batches",
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
        """What the flags became, as one could type them."""
        loss = self.problem.loss.name
        return {
            "mode": self.problem.mode,
            "micro_batch": self.problem.micro_batch,
            "device": str(self.problem.device),
            "loss": loss if loss in BUILT_IN_LOSSES or ":" in loss else "auto",
            "batch": self.problem.batch.source,
            "model": self.network,
        }


def one_draw_of_many(noise: NoiseRecord) -> Finding:
    """What the spread over draws means for every number of an answer."""
    return Finding(
        code="one-draw-of-many",
        severity="info",
        message=(
            "the network draws random numbers, and the numbers here are from one draw. Over "
            f"{noise.seeds} draws the loss is {noise.loss_mean:.4g} ± {noise.loss_spread:.2g}, and the "
            f"gradient differs from its mean by {noise.gradient_spread:.2g} of it"
        ),
        value=noise.gradient_spread,
        hint="For another draw give another --seed. More rows average over more draws.",
    )


def given_settings(options: OptimizerOptions) -> Given:
    """What the user said of the optimizer."""
    from fromage_cli.optimizers.settings import Given

    return Given(
        options.optimizer,
        options.lr,
        options.momentum,
        options.nesterov,
        options.beta_pair,
        options.weight_decay,
        configured=not typed("lr"),
    )


def provenance(problem: Problem) -> Provenance:
    """What was computed on a problem so far, and where; called on every rank at once."""
    evaluations, together = problem.evaluations, problem.ranks
    own = [0.0] * (2 * together.count)
    own[2 * together.index : 2 * together.index + 2] = [peak_memory() or 0, peak_device_memory() or 0]
    peaks = own if stopping.interrupted() else together.sums(own)
    return Provenance(
        device=str(problem.device),
        dtype=str(problem.dtype).removeprefix("torch."),
        gradient_evaluations=evaluations.gradients,
        forward_evaluations=evaluations.forwards,
        hvp_evaluations=evaluations.hessian_vector_products,
        peak_memory=int(max(peaks[::2])),
        peak_device_memory=int(max(peaks[1::2])),
    )


def short_place(record: CheckpointRecord) -> str:
    """A checkpoint as a header names it: the file without its ending, in its directory, and its step."""
    place = PurePath(record.path)
    place = place.parent if place.name == METADATA else place
    name = "/".join((*place.parts[-2:-1], place.stem)).lstrip("/")
    told = record.step is None or str(record.step) in name
    return name if told else f"{name}, step {record.step}"


def checkpoint_record(checkpoint: Checkpoint) -> CheckpointRecord:
    """A checkpoint as the envelope names it."""
    return CheckpointRecord(
        path=checkpoint.url or str(checkpoint.bundle or checkpoint.weights or checkpoint.path),
        format=checkpoint.format,
        step=checkpoint.step,
        parameters=checkpoint.parameters,
        stripped=checkpoint.stripped,
    )
