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

Format = Literal["auto", "rich", "tsv", "csv", "json", "jsonl", "md", "github", "junit", "prom"]
Color = Literal["auto", "always", "never"]
FailOn = Literal["warn", "fail", "never"]

CHECKPOINT_HELP = "Checkpoint: a file or a directory. Of a run, its last complete step."
CheckpointArgument = Annotated[str | None, typer.Argument(metavar="CKPT", help=CHECKPOINT_HELP)]
"""The one checkpoint of a command that a model's own weights may stand in for."""
PlotArgument = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=parsing.output_file,
        help="Draw the answer, too, as .svg or .png (extra: plot).",
    ),
]
"""Where the picture of the answer goes."""
RunArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="CKPT…", help="Checkpoints of one run: its directory, files, patterns; - reads names from stdin."
    ),
]
"""The checkpoints of a command on a run."""


def _option(panel: str, *names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)


TimeLimitOption = Annotated[
    float | None,
    _option(
        "Run",
        "--time-limit",
        metavar="TIME",
        parser=parsing.duration,
        help="Stop after 90s, 5m or 1h, and show what was measured.",
    ),
]
"""How long a command may take."""


@dataclass(frozen=True)
class CheckpointOptions:
    """What to take from a checkpoint that holds several things."""

    key: Annotated[
        str | None,
        _option(
            "Checkpoint",
            "--key",
            metavar="PATH",
            help="Where the weights are in a nested checkpoint, for example model.encoder.",
        ),
    ] = None
    ema: Annotated[
        bool | None,
        _option(
            "Checkpoint",
            "--ema/--no-ema",
            help="Use the EMA weights, or insist on the plain ones. Default: plain if present.",
        ),
    ] = None
    optimizer_state: Annotated[
        str | None,
        _option(
            "Checkpoint",
            "--optimizer-state",
            metavar="FILE",
            help="File with the optimizer's state, if it is not in the checkpoint. none: do not use any.",
        ),
    ] = None
    optimizer_key: Annotated[
        str | None,
        _option(
            "Checkpoint",
            "--optimizer-key",
            metavar="PATH",
            help="Where the optimizer's state is in its file, for example trainer.optimizer.",
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
            help="file.py:build or pkg.module:build (returns the network), hf (from config.json), a bundle, or auto.",
        ),
    ] = None
    model_arg: Annotated[
        list[str] | None,
        _option(
            "Model",
            "--model-arg",
            metavar="K=V",
            parser=parsing.assignment,
            help="An argument for that function, as n_layer=6. Repeatable.",
        ),
    ] = None
    trust: Annotated[
        bool, _option("Model", "--trust", help="Allow code named beside the checkpoint, for this call.")
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
        _option(
            "Batch",
            "--batch",
            metavar="SPEC",
            help="A .safetensors, .npz, .pt or .bin file, a bundle, or file.py:function that returns a batch.",
        ),
    ] = None
    seq_len: Annotated[
        int | None, _option("Batch", "--seq-len", metavar="T", min=1, help="Tokens in a sequence of a .bin file.")
    ] = None
    sequences: Annotated[
        int | None, _option("Batch", "--sequences", metavar="N", min=1, help="Sequences to read from a .bin file.")
    ] = None
    batches: Annotated[
        int,
        _option("Batch", "--batches", metavar="N", min=1, help="Batches to take from an iterator."),
    ] = 1
    loss: Annotated[
        str,
        _option(
            "Batch",
            "--loss",
            metavar="SPEC",
            parser=parsing.choice_or_name(*BUILT_IN_LOSSES),
            help="auto, cross-entropy, mse, bce, output (the model's own), or file.py:function.",
        ),
    ] = "auto"
    mode: Annotated[
        Literal["auto", "train", "eval"],
        _option(
            "Batch",
            "--mode",
            help="auto: BatchNorm as in training, dropout off. train: dropout on as well. eval: as in model.eval().",
        ),
    ] = "auto"
    micro_batch: Annotated[
        int | None,
        _option(
            "Batch", "--micro-batch", metavar="N", min=1, help="Save memory: evaluate the batch in chunks of N rows."
        ),
    ] = None


@dataclass(frozen=True)
class HeldOutOptions:
    """Which rows training does not see."""

    val_batch: Annotated[
        str | None,
        _option("Batch", "--val-batch", metavar="SPEC", help="Held-out rows, in any form that --batch takes."),
    ] = None


@dataclass(frozen=True)
class NameOptions:
    """Which tensors, by name."""

    include: Annotated[
        list[str] | None,
        _option(
            "Tensors",
            "--include",
            metavar="GLOB",
            help="Use only tensors with a matching name, full or as a table shows it. Repeatable.",
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        _option("Tensors", "--exclude", metavar="GLOB", help="Leave out tensors with a matching name. Repeatable."),
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
        _option("Tensors", "--tensors", help="Move only matrices, or vectors (biases, gains) as well."),
    ] = None


@dataclass(frozen=True)
class RunOptions:
    """Where, how exactly and how long to compute."""

    device: Annotated[
        str,
        _option(
            "Run",
            "--device",
            metavar="DEVICE",
            parser=parsing.device,
            show_default=False,
            help="cpu, cuda, cuda:N, or auto: the first GPU, else cpu.",
        ),
    ] = "auto"
    dtype: Annotated[
        Literal["float32", "float64"], _option("Run", "--dtype", help="Precision of the weights while computing.")
    ] = "float32"
    seed: Annotated[
        int,
        _option("Run", "--seed", metavar="N", parser=parsing.seed, help="Seed for everything random, such as dropout."),
    ] = 0
    autocast: Annotated[
        bool, _option("Run", "--autocast", help="Run forward and backward passes in bfloat16. Weights keep --dtype.")
    ] = False
    time_limit: TimeLimitOption = None
    max_memory: Annotated[
        int | None,
        _option(
            "Run",
            "--max-memory",
            metavar="SIZE",
            parser=parsing.memory,
            help="Stop before more memory is used (8GB, 500MiB; up to 300 MB over), and show what was measured.",
        ),
    ] = None
    estimate: Annotated[
        bool, _option("Run", "--estimate", help="Print the cost (gradients, bytes, seconds), and stop.")
    ] = False
    nproc: Annotated[
        int | None,
        _option(
            "Run",
            "--nproc",
            metavar="N",
            min=1,
            show_default=False,
            help="Start N processes that share the rows. 1: alone, also under srun and torchrun.",
        ),
    ] = None
    shard: Annotated[
        bool,
        _option("Run", "--shard", help="Share the weights too: each process holds a part of every tensor."),
    ] = False
    recompute: Annotated[
        bool,
        _option("Run", "--recompute", help="Save memory of gradients: compute activations again in the backward pass."),
    ] = False
    compile: Annotated[
        bool,
        _option("Run", "--compile", help="Compile the network for gradients. It takes a minute, and may pay on a GPU."),
    ] = False


@dataclass(frozen=True)
class OutputOptions:
    """What is shown, where and how."""

    format: Annotated[
        Format,
        _option(
            "Output",
            "--format",
            metavar="NAME",
            help="A page: rich. One table: tsv, csv, md. Everything: json, jsonl. Findings: github, junit, prom. auto: "
            "rich in a terminal, tsv in a pipe.",
            show_default=False,
        ),
    ] = "auto"
    json: Annotated[bool, _option("Output", "--json", help="The same as --format json.")] = False
    output: Annotated[
        Path | None,
        _option(
            "Output",
            "--output",
            "-o",
            metavar="FILE",
            parser=parsing.answer_file,
            help="Write to FILE (- is stdout); its ending sets the format.",
        ),
    ] = None
    table: Annotated[
        str | None,
        _option(
            "Output",
            "--table",
            metavar="NAME",
            parser=str.lower,
            help="The table of tsv, csv and md. summary: the main numbers.",
        ),
    ] = None
    show_all: Annotated[bool, _option("Output", "--all", help="Show every row of the tables.")] = False
    quiet: Annotated[
        bool, _option("Output", "--quiet", "-q", help="No notes or progress; no findings beside a table.")
    ] = False
    verbose: Annotated[
        bool,
        _option(
            "Output",
            "--verbose",
            "-v",
            help="Show how it was measured, minor numbers, whole lists.",
        ),
    ] = False
    color: Annotated[
        Color, _option("Output", "--color", help="Colours. auto: in a terminal, unless NO_COLOR is set.")
    ] = "auto"
    no_progress: Annotated[bool, _option("Output", "--no-progress", help="Show no progress bar.")] = False
    fail_on: Annotated[
        FailOn,
        _option(
            "Output",
            "--fail-on",
            metavar="WHAT",
            help="warn: exit 10 on a warning, 11 on a failure. fail: only the latter.",
        ),
    ] = "never"
    force: Annotated[bool, _option("Output", "--force", help="Overwrite an existing output file.")] = False
    debug: Annotated[bool, _option("Output", "--debug", help="Show the Python traceback of an error.")] = False


Command = Callable[..., Answers]
OF_AN_ANSWER = ("output", "force", "table", "show_all", "no_progress")
"""Options that are about one answer at the end, and its bar."""


def diagnostic(
    *,
    tables: Sequence[str],
    estimate: bool,
    defaults: Mapping[str, object] | None = None,
    lasting: bool = False,
    ranks: bool = False,
    shard: bool = False,
    own_format: str | None = None,
) -> Callable[[Command], Command]:
    """A function becomes a command: its groups of options are flattened into flags, `OutputOptions` are always there.

    `tables` names the tables of its answer, so that a wrong `--table` is refused before anything is computed.
    `estimate` says whether the command tells its cost: `--estimate` is a flag only then, and what the function returns
    under it must come from `estimate_answer`. `defaults` holds this command's own defaults of shared fields (`fail_on`,
    `device` …). A `lasting` command runs until it is told to end and writes as it goes: it has no bar, no table and no
    file of its answer. Of a command with `ranks` several processes may share the work: it has `--nproc`.
    With `shard` they may share the weights as well. `own_format`: of a command whose answer is a document of its own.
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
        for name in OF_AN_ANSWER if lasting else ():
            parameters.pop(name, None)
        if not ranks:
            parameters.pop("nproc", None)
        if not shard:
            parameters.pop("shard", None)
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
        command.lasting = lasting  # type: ignore[attr-defined]
        command.ranks = ranks  # type: ignore[attr-defined]
        command.own_format = own_format  # type: ignore[attr-defined]
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
