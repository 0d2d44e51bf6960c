"""The options that commands share, each group one frozen dataclass whose fields are the flags.

A command takes the groups as keyword parameters; `diagnostic` flattens them into flags and hands them back whole.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from fromage_cli.problem.user_code.forms import BUILT_IN_LOSSES
from fromage_cli.terminal import parsing
from fromage_cli.terminal.answer import Answer, Answers, EstimateResult

Format = Literal["auto", "rich", "tsv", "csv", "json", "jsonl", "md"]
FailOn = Literal["warn", "fail", "never"]

CHECKPOINT_HELP = "Checkpoint: a file, or a directory of one or of a run."
CheckpointArgument = Annotated[str | None, typer.Argument(metavar="CKPT", help=CHECKPOINT_HELP)]
"""The one checkpoint of a command that a model's own weights may stand in for."""
PlotArgument = Annotated[
    Path | None,
    typer.Option(metavar="FILE.svg|png", parser=parsing.output_file, help="Draw it into a file too (extra: plot)."),
]
"""Where the picture of the answer goes."""
RunArgument = Annotated[
    list[str], typer.Argument(metavar="CKPT…", help="Checkpoints of one run: files, patterns, or the run's directory.")
]
"""The checkpoints of a command on a run."""


def _option(panel: str, *names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)


@dataclass(frozen=True)
class CheckpointOptions:
    """What to take from a checkpoint that holds several things."""

    key: Annotated[
        str | None, _option("Checkpoint", "--key", metavar="PATH", help="Nested dictionary of the checkpoint to take.")
    ] = None
    ema: Annotated[
        bool | None,
        _option("Checkpoint", "--ema/--no-ema", help="Take averaged weights, or never; plain ones go first."),
    ] = None
    optimizer_state: Annotated[
        str | None,
        _option(
            "Checkpoint",
            "--optimizer-state",
            metavar="FILE",
            help="The optimizer's state; none: leave the saved one aside.",
        ),
    ] = None
    optimizer_key: Annotated[
        str | None,
        _option(
            "Checkpoint", "--optimizer-key", metavar="PATH", help="Nested dictionary that holds the optimizer's state."
        ),
    ] = None


@dataclass(frozen=True)
class ModelOptions(CheckpointOptions):
    """Which network the checkpoint's weights belong to."""

    model: Annotated[
        str | None,
        _option(
            "Model",
            "--model",
            metavar="SPEC",
            parser=parsing.choice_or_name("auto", "hf"),
            help="Network: pkg.module:factory, path/file.py:factory, hf, or auto (a perceptron).",
        ),
    ] = None
    model_arg: Annotated[
        list[str] | None,
        _option(
            "Model",
            "--model-arg",
            metavar="K=V",
            parser=parsing.assignment,
            help="Argument of the factory, a JSON value; repeatable.",
        ),
    ] = None
    trust: Annotated[
        bool, _option("Model", "--trust", help="Run, for this call, code that stands beside the checkpoint.")
    ] = False

    @property
    def model_arguments(self) -> dict[str, object]:
        """`--model-arg` as keyword arguments of the factory; a later one wins."""
        return dict(parsing.assigned(text) for text in self.model_arg or ())


@dataclass(frozen=True)
class BatchOptions:
    """Which data and which loss."""

    batch: Annotated[
        str | None,
        _option("Batch", "--batch", metavar="SPEC", help="Batch: .safetensors, .npz, .pt, .bin or file.py:function."),
    ] = None
    seq_len: Annotated[
        int | None, _option("Batch", "--seq-len", metavar="T", min=1, help="Tokens per sequence of a .bin file.")
    ] = None
    sequences: Annotated[
        int | None, _option("Batch", "--sequences", metavar="N", min=1, help="Sequences to take from a .bin file.")
    ] = None
    batches: Annotated[
        int, _option("Batch", "--batches", metavar="N", min=1, help="Batches to take from an iterator.")
    ] = 1
    loss: Annotated[
        str,
        _option(
            "Batch",
            "--loss",
            metavar="SPEC",
            parser=parsing.choice_or_name(*BUILT_IN_LOSSES),
            help="Loss: auto, cross-entropy, mse, bce, output or file.py:function.",
        ),
    ] = "auto"
    mode: Annotated[
        Literal["auto", "train", "eval"],
        _option("Batch", "--mode", help="auto: BatchNorm as in training, dropout off; train: dropout on too."),
    ] = "auto"
    micro_batch: Annotated[
        int | None,
        _option("Batch", "--micro-batch", metavar="N", min=1, help="Evaluate the batch in chunks of N samples."),
    ] = None


@dataclass(frozen=True)
class NameOptions:
    """Which tensors, by name."""

    include: Annotated[
        list[str] | None,
        _option("Tensors", "--include", metavar="GLOB", help="Only tensors whose name matches; repeatable."),
    ] = None
    exclude: Annotated[
        list[str] | None,
        _option("Tensors", "--exclude", metavar="GLOB", help="No tensor whose name matches; repeatable."),
    ] = None

    @property
    def globs(self) -> tuple[Sequence[str], Sequence[str]]:
        """The patterns to include, and those to exclude."""
        return self.include or (), self.exclude or ()


@dataclass(frozen=True)
class TensorOptions(NameOptions):
    """Which tensors are moved and measured."""

    tensors: Annotated[
        Literal["matrices", "all"] | None,
        _option("Tensors", "--tensors", help="Move the matrices only, or everything trainable."),
    ] = None


@dataclass(frozen=True)
class RunOptions:
    """Where, how exactly and how long to compute."""

    device: Annotated[
        str,
        _option("Run", "--device", metavar="auto|cpu|cuda[:N]", parser=parsing.device, help="Device to compute on."),
    ] = "auto"
    dtype: Annotated[
        Literal["float32", "float64"], _option("Run", "--dtype", help="Type of the weights while computing.")
    ] = "float32"
    seed: Annotated[
        int, _option("Run", "--seed", metavar="N", parser=parsing.seed, help="Seed of everything random.")
    ] = 0
    autocast: Annotated[
        bool, _option("Run", "--autocast", help="Run the passes in bfloat16; perturbed weights stay as they are.")
    ] = False
    time_limit: Annotated[
        float | None,
        _option(
            "Run",
            "--time-limit",
            metavar="90|90s|5m|1h",
            parser=parsing.duration,
            help="Stop after this long, also within the model's code; what was measured is shown.",
        ),
    ] = None
    max_memory: Annotated[
        int | None,
        _option(
            "Run",
            "--max-memory",
            metavar="8GB|500MiB",
            parser=parsing.memory,
            help="Stop before using more memory; one operation may go some 300 MB beyond.",
        ),
    ] = None
    estimate: Annotated[
        bool, _option("Run", "--estimate", help="Print the cost in gradients, bytes and seconds, and stop.")
    ] = False


@dataclass(frozen=True)
class OutputOptions:
    """What is shown, where and how."""

    format: Annotated[
        Format, _option("Output", "--format", metavar="FORMAT", help="One of auto, rich, tsv, csv, json, jsonl, md.")
    ] = "auto"
    json: Annotated[bool, _option("Output", "--json", help="The same as --format json.")] = False
    output: Annotated[
        Path | None,
        _option(
            "Output", "--output", "-o", metavar="FILE", parser=parsing.output_file, help="Write the answer to a file."
        ),
    ] = None
    table: Annotated[
        str | None,
        _option(
            "Output",
            "--table",
            metavar="NAME",
            parser=str.lower,
            help="Another table than the main one (tsv, csv, md).",
        ),
    ] = None
    show_all: Annotated[bool, _option("Output", "--all", help="Show every row, not the offenders alone.")] = False
    quiet: Annotated[bool, _option("Output", "--quiet", "-q", help="No notes and findings on standard error.")] = False
    verbose: Annotated[bool, _option("Output", "--verbose", "-v", help="Whole lists in messages; warnings too.")] = (
        False
    )
    no_progress: Annotated[bool, _option("Output", "--no-progress", help="No progress bar.")] = False
    fail_on: Annotated[
        FailOn, _option("Output", "--fail-on", help="Exit 10 on warnings, 11 on failures from this severity on.")
    ] = "never"
    force: Annotated[bool, _option("Output", "--force", help="Overwrite an existing output file.")] = False
    debug: Annotated[bool, _option("Output", "--debug", help="Show the traceback of an error.")] = False


Command = Callable[..., Answers]


def diagnostic(
    *, tables: Sequence[str], estimate: bool, defaults: Mapping[str, object] | None = None
) -> Callable[[Command], Command]:
    """A function becomes a command: its groups of options are flattened into flags, `OutputOptions` are always there.

    `tables` names the tables of its answer, so that a wrong `--table` is refused before anything is computed.
    `estimate` says whether the command tells its cost: `--estimate` is a flag only then, and what the function returns
    under it must come from `estimate_answer`. `defaults` holds this command's own defaults of shared fields (`fail_on`,
    `device` …).
    """

    def decorated(function: Command) -> Command:
        hints = get_type_hints(function, include_extras=True)
        own = inspect.signature(function).parameters
        groups = {name: hints[name] for name in own if dataclasses.is_dataclass(hints.get(name))}
        parameters = {name: own[name].replace(annotation=hints[name]) for name in own if name not in groups}
        for group in (*groups.values(), OutputOptions):
            parameters |= _fields(group)
        if not estimate:
            parameters.pop("estimate", None)
        elif "estimate" not in parameters:
            raise TypeError(f"{function.__module__} tells its cost, but takes no RunOptions with their --estimate")
        for name, value in (defaults or {}).items():
            parameters[name] = parameters[name].replace(default=value)
        for parameter in parameters.values():
            for information in getattr(parameter.annotation, "__metadata__", ()):
                information.case_sensitive = False  # `AdamW` is meant by it too

        def command(**values: object) -> Answers:
            arguments = {name: values[name] for name in own if name not in groups}
            answers = function(**arguments, **{name: assemble(group, values) for name, group in groups.items()})
            if values.get("estimate"):
                for answer in answers if isinstance(answers, Sequence) else (answers,):
                    if isinstance(answer, Answer) and not isinstance(answer.result, EstimateResult):
                        raise TypeError("the command does not heed --estimate")
            return answers

        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        command.__module__ = function.__module__
        command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
        ordered = sorted(parameters.values(), key=lambda parameter: parameter.kind)
        command.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        command.tables = tuple(tables)  # type: ignore[attr-defined]
        return command

    return decorated


def assemble(group: type[Any], values: Mapping[str, object]) -> Any:
    """The options group made of its fields' values; other values are left alone."""
    return group(**{entry.name: values[entry.name] for entry in dataclasses.fields(group) if entry.name in values})


def _fields(group: type[Any]) -> dict[str, inspect.Parameter]:
    """A group's fields as parameters of a function, by name."""
    hints = get_type_hints(group, include_extras=True)
    return {
        entry.name: inspect.Parameter(
            entry.name, inspect.Parameter.KEYWORD_ONLY, default=entry.default, annotation=hints[entry.name]
        )
        for entry in dataclasses.fields(group)
    }
