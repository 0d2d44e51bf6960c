"""`fromage-diag watch`."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fromage_cli.checkpoints.storage.files import irregular
from fromage_cli.checkpoints.storage.remote import is_url
from fromage_cli.counting import counted
from fromage_cli.errors import InputError, UsageError
from fromage_cli.terminal import parsing, session, streams
from fromage_cli.terminal.answer import Answers
from fromage_cli.terminal.envelope import FAILURES, WARNINGS, dumps
from fromage_cli.terminal.optimizer_options import TrainingOptions
from fromage_cli.terminal.options import (
    BatchOptions,
    HeldOutOptions,
    ModelOptions,
    NameOptions,
    OutputOptions,
    RunOptions,
    diagnostic,
)
from fromage_cli.terminal.words import visible
from fromage_cli.watching.alarm import sound
from fromage_cli.watching.diagnosis import Diagnostician
from fromage_cli.watching.following import Ending, Follower
from fromage_cli.watching.lines import line
from fromage_cli.watching.log import WatchLog, verdict_in
from fromage_cli.watching.metrics_file import refuse_foreign, write_metrics
from fromage_cli.watching.sinks import Sink, mlflow_sink, send, tensorboard_sink

OWN = {"device", "time_limit", "estimate"}
"""Options that reach `check` in another way."""
PASSED_ON = frozenset({session.COMMAND_LINE, "project"})
"""Where a value comes from that `check` has to be given; it finds defaults and the environment by itself."""


def _option(*names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, **settings)


@diagnostic(tables=(), estimate=False, lasting=True, defaults={"fail_on": "fail", "device": "cpu", "time_limit": "1h"})
def command(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Directory into which a run writes checkpoints.")],
    *,
    interval: Annotated[
        float, _option("--interval", metavar="TIME", parser=parsing.duration, help="Time from one look to the next.")
    ] = "10s",  # type: ignore[assignment]
    log: Annotated[
        Path,
        _option(
            "--log",
            metavar="FILE",
            parser=parsing.output_file,
            help="Here a line of JSON is appended for each checkpoint.",
        ),
    ] = "fromage-watch.jsonl",  # type: ignore[assignment]
    once: Annotated[bool, _option("--once", help="Diagnose what is there, and end.")] = False,
    until_step: Annotated[
        int | None, _option("--until-step", metavar="N", min=0, help="End after a checkpoint of this step or later.")
    ] = None,
    idle: Annotated[
        float | None,
        _option("--idle", metavar="TIME", parser=parsing.duration, help="End when nothing has changed for so long."),
    ] = None,
    on_fail: Annotated[
        str | None, _option("--on-fail", metavar="COMMAND", help="A shell command, run when a checkpoint says stop.")
    ] = None,
    tensorboard: Annotated[
        Path | None,
        _option(
            "--tensorboard",
            metavar="PATH",
            parser=parsing.output_file,
            help="Write the numbers there (extra: tensorboard).",
        ),
    ] = None,
    metrics: Annotated[
        Path | None,
        _option(
            "--metrics",
            metavar="FILE",
            parser=parsing.output_file,
            help="Replace FILE by the verdict's metrics (prom).",
        ),
    ] = None,
    mlflow: Annotated[
        str | None,
        _option("--mlflow", metavar="URI", help="Send the numbers there (extra: mlflow)."),
    ] = None,
    optimizer: TrainingOptions,
    model: ModelOptions,
    batch: BatchOptions,
    held_out: HeldOutOptions,
    tensors: NameOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answers:
    """Follow a training run: diagnose each new, complete checkpoint once.

    check looks at each, in a process of its own that takes no GPU.
    """
    refuse_places(directory, {"--log": log, "--metrics": metrics, "--tensorboard": tensorboard}, output)
    if metrics is not None:
        refuse_foreign(metrics)
    say: Callable[[str], None] = (lambda text: None) if output.quiet else (lambda text: streams.say(visible(text)))
    kept = WatchLog(log, Path(directory), say)
    try:
        sinks = [] if tensorboard is None else [tensorboard_sink(tensorboard)]
        sinks += [] if mlflow is None else [mlflow_sink(mlflow, log)]
        device = run.device if session.typed("device") else "cpu"  # a configuration means other commands by it
        flags = ["--device", device, "--fail-on", output.fail_on]
        flags += flags_of((optimizer, model, batch, held_out, tensors, run), session.current().origins)
        checked = Diagnostician(flags, run.time_limit or parsing.duration("1h"), hide_gpus=device == "cpu")
        tell = telling(sinks, metrics, on_fail, kept.path, say)
        say(f"note: {directory} is watched; each checkpoint gets a line here and in {log}")
        follower = Follower(Path(directory), kept, checked.diagnose, tell, say)
        why = follower.follow(Ending(once, until_step, idle), interval)
    finally:
        kept.close()
    judged = sum(kept.verdicts.values())
    if not judged:
        raise InputError(f"No complete checkpoint was found in {visible(directory)}.", "Name the directory of a run.")
    say(f"note: ended, as {why}; {counted(judged, 'checkpoint')} in {log}")
    raise typer.Exit(exit_code(kept, output.fail_on))


def refuse_places(directory: str, places: Mapping[str, Path | None], output: OutputOptions) -> None:
    """Raise UsageError for what cannot be followed, and for files of ours among the run's own."""
    if is_url(directory):
        raise UsageError(f"watch follows a local directory, not {visible(directory)}.", "Mount it, and name the mount.")
    if output.format not in ("auto", "rich", "json", "jsonl"):
        raise UsageError(
            f"watch prints lines for a person or JSON lines, not {output.format}.",
            "Leave --format out, or give --json. jq makes tables of the log.",
        )
    if Path(directory).exists() and not Path(directory).is_dir():
        raise UsageError(f"{visible(directory)} is a file.", "Name its directory, or use check.")
    log = places["--log"]
    if log is not None and log.exists() and (kind := irregular(log.stat().st_mode)):
        raise UsageError(
            f"--log {visible(str(log))} is {kind}; expected a regular file.",
            "Name a file. With --json its lines are printed too.",
        )
    home = Path(directory).resolve()
    for flag, place in places.items():
        if place is not None and place.resolve().is_relative_to(home):
            raise UsageError(
                f"{flag} {visible(str(place))} lies in the run's own directory, into which nothing is written.",
                f"Give {flag} a place outside of {visible(directory)}.",
            )


def telling(
    sinks: Sequence[Sink], metrics: Path | None, on_fail: str | None, log: Path, say: Callable[[str], None]
) -> Callable[[Mapping[str, Any]], None]:
    """What is done with a record once it is in the log."""
    destination = session.current().destination
    as_json = destination is not None and destination.format in ("json", "jsonl")

    def tell(record: Mapping[str, Any]) -> None:
        text = dumps(record, indent=None) if as_json else f"{line(record)}\n"
        try:
            streams.write(streams.answer(), text)
            if metrics is not None:
                write_metrics(metrics, record)
        except InputError as error:  # the log is what counts
            say(f"note: {error.message}")
        for sink in sinks:
            send(sink, record, say)
        if on_fail is not None and verdict_in(record) == "stop":
            sound(on_fail, record, log, say)

    return tell


def flags_of(groups: Sequence[Any], origins: Mapping[str, str]) -> list[str]:
    """Return the options that were given to this command as `check` takes them."""
    words: list[str] = []
    for group in groups:
        for entry in dataclasses.fields(group):
            if entry.name not in OWN and origins.get(entry.name) in PASSED_ON:
                words += _spelled(entry.name.replace("_", "-"), getattr(group, entry.name))
    return words


def _spelled(name: str, value: object) -> Iterator[str]:
    """Yield an option with its value, or values, as typed."""
    if isinstance(value, bool):
        yield f"--{'' if value else 'no-'}{name}"
    else:
        for one in value if isinstance(value, list | tuple) else [value]:
            yield from (f"--{name}", str(one))


def exit_code(log: WatchLog, fail_on: str) -> int:
    """Return the code of the gravest verdict on this run, else that of the first checkpoint that was not judged."""
    if log.verdicts.get("stop") and fail_on in ("warn", "fail"):
        return FAILURES
    if log.verdicts.get("look") and fail_on == "warn":
        return WARNINGS
    return log.first_error
