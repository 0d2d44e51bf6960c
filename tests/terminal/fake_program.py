"""A program with one small command, run by the tests in a process of its own and, through fixtures, in theirs."""

import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fromage_cli.cli import build_program, load_command, main
from fromage_cli.errors import InputError, MismatchError, NumericalError, ResourceError, UnsafeError, UsageError
from fromage_cli.findings import Finding
from fromage_cli.own_commands import OWN_COMMANDS
from fromage_cli.terminal.answer import (
    Answer,
    CheckpointRecord,
    Estimate,
    ProblemRecord,
    Provenance,
    estimate_answer,
    records,
)
from fromage_cli.terminal.command import Program
from fromage_cli.terminal.options import (
    BatchOptions,
    ModelOptions,
    OutputOptions,
    RunOptions,
    TensorOptions,
    diagnostic,
)
from fromage_cli.terminal.progress import progress
from fromage_cli.terminal.tables import Column, house_table

SEEN: dict[str, object] = {}
FAMILY = {
    error.code: error for error in (UsageError, InputError, UnsafeError, MismatchError, NumericalError, ResourceError)
}


@dataclass(frozen=True)
class Layer:
    name: str
    shape: tuple[int, ...]
    eta: float | None


@dataclass(frozen=True)
class Result:
    direction: str
    layers: tuple[Layer, ...]


def result(rows: int) -> Result:
    special = (
        Layer("a.weight", (2, 3), 0.1),
        Layer("tab\there\x1b[31m[bold]η\u202e.weight", (2,), float("nan")),
        Layer("c.weight", (2,), None),
    )
    return Result("fromage", special + tuple(Layer(f"layer.{i}", (1,), i / 7) for i in range(rows)))


def misbehave(how: str) -> None:
    if how in FAMILY:
        raise FAMILY[how](f"{how} happened.", hint="do this", details=[f"key {i}" for i in range(30)])
    if how == "bug":
        raise ZeroDivisionError("division by zero")
    if how == "memory":
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 12 bytes")
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "exit":
        sys.exit(0)
    if how == "eof":
        raise EOFError
    if how == "sleep":
        sys.stderr.write("asleep\n")
        sys.stderr.flush()
        time.sleep(60)
    if how == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    if how == "missing-file":
        Path("/nowhere/at/all").read_bytes()
    if how == "warning":
        warnings.warn("old\nfashioned", UserWarning, stacklevel=1)


@diagnostic(tables=("layers", "curve"), estimate=True, ranks=True, shard=True)
def measure(
    ckpt: Annotated[Path | None, typer.Argument(metavar="CKPT", help="Checkpoint.")] = None,
    *,
    how: Annotated[str, typer.Option("--how", help="What goes wrong.")] = "well",
    severity: Annotated[str, typer.Option("--severity", help="Of the finding.")] = "",
    rows: Annotated[int, typer.Option("--rows", help="How many.")] = 0,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: TensorOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Measure something small."""
    SEEN.update(ckpt=ckpt, model=model, batch=batch, tensors=tensors, run=run, output=output, lr=learning_rate)
    if run.estimate and how != "heedless":
        return estimate_answer(Estimate(17.0, 4096, None))
    with progress("measuring", total=2) as advance:
        misbehave(how)
        advance(1)
    found = result(rows)
    findings = (Finding("too-hot", severity, "it is hot", "a.weight", 2.0, 1.0, "cool it"),) if severity else ()  # type: ignore[arg-type]
    return Answer(
        result=found,
        page=lambda style: _page(found, findings, style),
        tables={"layers": lambda: records(found.layers), "curve": lambda: records([{"eta": 0.5, "layer": "a"}])},
        findings=findings,
        checkpoints=(CheckpointRecord("a.pt", "torch", 3, 10, ("module.",)),),
        problem=ProblemRecord("net", "mse", 4, "eval", 0, 2),
        provenance=Provenance("cpu", "float32", 2.5, 1.0, 0.0),
        notes=("said beside",),
        settings={"mode": "eval"},
        error=NumericalError("did not converge.", hint="more steps") if how == "partial" else None,
    )


def _page(found, findings, style):

    rows = [(layer.name, layer.eta, "×".join(map(str, layer.shape))) for layer in found.layers]
    columns = [Column("layer", name=True), Column("trust η"), Column("shape", left=True, optional=1)]
    return house_table(columns, rows, style)


@diagnostic(tables=(), estimate=False, defaults={"fail_on": "fail"})
def other(first: Annotated[str, typer.Argument()], *, top: Annotated[int, typer.Option("--top")] = 1) -> Answer:
    """Another command."""
    return Answer({"top": top}, page=lambda style: "page", findings=(Finding("f", "fail", "bad"),))


COMMANDS = {"measure": measure, "other-one": other}


def program() -> Program:
    lines = {name: command.__doc__ for name, command in COMMANDS.items()}
    return build_program(lines | OWN_COMMANDS, lambda name: COMMANDS.get(name) or load_command(name))


if __name__ == "__main__":
    main(program=program())
