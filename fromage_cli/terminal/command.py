"""A command under typer: its configuration is found once its checkpoints are known, its answer shown at the end."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from fromage_cli.errors import FromageError, UsageError
from fromage_cli.terminal import configuration, session, streams
from fromage_cli.terminal.configuration import DATA_KEYS, Flag, ProjectConfiguration
from fromage_cli.terminal.failure import complaint
from fromage_cli.terminal.options import OutputOptions, assemble
from fromage_cli.terminal.output import prepare_output
from fromage_cli.terminal.rows import check_table
from fromage_cli.terminal.show import show
from fromage_cli.terminal.words import visible

_SOURCES = {"COMMANDLINE": "command line", "DEFAULT": "default"}


class DiagnosticCommand(TyperCommand):
    """A command whose flags may stand in the environment and in the project, and which returns an Answer."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse twice: once to see which checkpoints are named, then with the configuration as defaults."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        session.begin(session.Session(self.name))
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        if given.get("help"):
            return super().parse_args(ctx, args)
        configured = self._configure(ctx, given)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            raise _sourced(error, ctx, configured) or error from None

    def _configure(self, ctx: typer.Context, given: Mapping[str, Any]) -> dict[str, str]:
        """Set the context's defaults from project and environment; by parameter name, the words naming the source."""
        flags = command_flags(ctx)
        own = flags[self.name or ""]
        checkpoints = _checkpoints(self, given)
        trusted = bool(given.get("trust"))
        project = configuration.find_project(Path.cwd(), () if trusted else checkpoints)
        chosen = configuration.flag_values(project, self.name or "", flags)
        if not trusted and not checkpoints and "ckpt" in chosen:
            project, chosen = _apart_from_checkpoint(project, chosen)
        environment = configuration.environment_values(os.environ, own)
        origins = {**dict.fromkeys(chosen, "project"), **dict.fromkeys(environment, "environment")}
        chosen = {**chosen, **environment}
        names = {flag: own[flag].parameter if flag in own else flag for flag in chosen}
        ctx.default_map = {names[flag]: value for flag, (value, _) in chosen.items()}
        ctx.meta["fromage.project"] = project
        ctx.meta["fromage.origins"] = {names[flag]: origin for flag, origin in origins.items()}
        return {names[flag]: where for flag, (_, where) in chosen.items()}

    def invoke(self, ctx: typer.Context) -> int:  # type: ignore[override]
        """Run the command and show its answer; the exit code."""
        running = self._begin(ctx)
        streams_notes(running)
        answer = _run(super().invoke, ctx)
        return show(answer)

    def _begin(self, ctx: typer.Context) -> session.Session:
        output = assemble(OutputOptions, ctx.params)
        origins = _origins(ctx)
        settings = {_flag(parameter): ctx.params.get(parameter.name) for parameter in _options(self)}
        begun = session.Session(
            self.name, output, project=ctx.meta["fromage.project"], settings=settings, origins=origins
        )
        session.begin(begun)
        if output.json and output.format not in ("auto", "json") and origins["format"] == "command line":
            raise UsageError(f"--json and --format {output.format} contradict each other.", hint="give one of them")
        tables: Sequence[str] = getattr(self.callback, "tables", ())
        if tables:
            check_table(output.table, tables)
        destination = prepare_output(output)
        settings = {**settings, "format": destination.format, "json": destination.format == "json"}
        ready = replace(begun, destination=destination, settings=settings)
        session.begin(ready)
        return ready


class Program(TyperGroup):
    """The program itself: names the nearest command where there is none of that name."""

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """As typer does it, with our own words."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = get_close_matches(args[0], list(self.commands), n=3, cutoff=0.4) or list(self.commands)
            raise UsageError(f"there is no command {visible(args[0])!r}.", hint=f"nearest: {', '.join(near)}")
        return super().resolve_command(ctx, args)


def command_flags(ctx: typer.Context) -> dict[str, dict[str, Flag]]:
    """The flags of every command of the program, by command and by name."""
    parent = ctx.parent.command if ctx.parent is not None else None
    commands: dict[str, Any] = dict(getattr(parent, "commands", {}))
    commands[ctx.command.name or ""] = ctx.command
    return {
        name: {
            _flag(parameter).replace("_", "-"): Flag(parameter.name, parameter.multiple, parameter.is_flag)
            for parameter in _options(command)
        }
        for name, command in commands.items()
    }


def _options(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "option"]


def _flag(parameter: Any) -> str:
    """`--time-limit` → `time_limit`."""
    return str(max(parameter.opts, key=len)).lstrip("-").replace("-", "_")


def _checkpoints(command: Any, given: Mapping[str, Any]) -> list[str]:
    """Whatever on the command line may be the path of a checkpoint."""
    paths: list[str] = []
    for parameter in command.params:
        value = given.get(parameter.name)
        values = value if isinstance(value, list | tuple) else [value]
        texts = [text for text in values if isinstance(text, str)]
        if parameter.param_type_name == "argument" or parameter.name == "optimizer_state":
            paths += texts
        else:
            paths += [text.removeprefix("to:") for text in texts if text.startswith("to:")]
    return paths


def _apart_from_checkpoint(
    project: ProjectConfiguration, chosen: dict[str, tuple[Any, str]]
) -> tuple[ProjectConfiguration, dict[str, tuple[Any, str]]]:
    """Of a configuration that names a checkpoint in its own directory, only that name counts: the rest is data."""
    if project.source is None or configuration.find_project(project.source.parent, [chosen["ckpt"][0]]) == project:
        return project, chosen
    beside = ProjectConfiguration(skipped=(*project.skipped, project.source))
    return beside, {"ckpt": chosen["ckpt"]}


def _sourced(error: Exception, ctx: typer.Context, configured: Mapping[str, str]) -> FromageError | None:
    """The complaint about a configured value, naming its source; None where the command line is to blame."""
    parameter = getattr(error, "param", None)
    if parameter is None or parameter.name not in configured:
        return None
    source = ctx.get_parameter_source(parameter.name)
    if source is None or source.name != "DEFAULT_MAP":
        return None
    return UsageError(f"{configured[parameter.name]}: {visible(complaint(error))}", hint="correct it there")


def _origins(ctx: typer.Context) -> dict[str, str]:
    configured: Mapping[str, str] = ctx.meta["fromage.origins"]
    origins = {}
    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        kind = source.name if source is not None else "DEFAULT"
        origins[name] = configured.get(name, "default") if kind == "DEFAULT_MAP" else _SOURCES.get(kind, "default")
    return origins


def streams_notes(running: session.Session) -> None:
    """Say which configuration files were taken for data, where they hold more than that."""
    if running.output.quiet:
        return
    for path in running.project.skipped:
        section = configuration.read_section(path) or {}
        unused = sorted(set(section) - DATA_KEYS)
        if unused:
            streams.say(
                f"note: {visible(str(path))} lies beside the checkpoint and is data only: "
                f"{', '.join(map(visible, unused))} not used (--trust lifts that for one call)"
            )


def _run(invoke: Any, ctx: typer.Context) -> Any:
    """Run the body; what typer would misread for its own signals is told apart here."""
    with warnings.catch_warnings():
        if session.current().output.verbose:
            warnings.simplefilter("default")
            warnings.showwarning = _say_warning
        else:
            warnings.simplefilter("ignore")
        try:
            return invoke(ctx)
        except (EOFError, BrokenPipeError) as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _say_warning(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
    text = visible(" ".join(str(message).split()))
    streams.say(f"warning: {category.__name__}: {text} ({Path(filename).name}:{lineno})")
