"""A command under typer: its configuration is found once its checkpoints are known, its answer shown at the end."""

import contextlib
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from fromage_cli import ranks
from fromage_cli.configuration_file import read_configuration
from fromage_cli.errors import InputError, UsageError, words_of
from fromage_cli.terminal import configuration, failure, input_files, session, streams
from fromage_cli.terminal.answer import Answers
from fromage_cli.terminal.configuration import DATA_KEYS
from fromage_cli.terminal.failure import complaint, nearest_choice
from fromage_cli.terminal.flags import CommandFlags, named_checkpoints, options, origins, outranks, snake_case
from fromage_cli.terminal.help_page import option_panels, usage
from fromage_cli.terminal.listed import with_listed
from fromage_cli.terminal.options import OutputOptions, assemble
from fromage_cli.terminal.output import prepare_output
from fromage_cli.terminal.progress import progress
from fromage_cli.terminal.project import ProjectConfiguration, find_project, is_beside
from fromage_cli.terminal.rows import check_table
from fromage_cli.terminal.show import show
from fromage_cli.terminal.trust import refuse_untrusted
from fromage_cli.terminal.words import visible

Launch = Callable[[Sequence[str], int], int]
_WORDS = "fromage.words"
_EVERY_OPTION = "fromage.every_option"
_PROJECT = "fromage.project"
_ORIGINS = "fromage.origins"
_EXITING = "Take sys.exit() out of the model, batch or loss file, or put it under __main__."


class DiagnosticCommand(TyperCommand):
    """A command whose flags may stand in the environment and in the project, and which returns an Answer."""

    ending = ""
    """What its help ends with, as it stands."""
    launch: Launch
    """Starts the command again in so many ranks; the exit code."""

    def format_usage(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write how it is called, its arguments as they are typed."""
        formatter.write_usage(ctx.command_path, usage(self))

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the options in the groups that they are declared in, the command's own first."""
        formatter.write(option_panels(self, ctx, formatter.width, every=ctx.meta.get(_EVERY_OPTION, False)))

    def format_epilog(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the ending without breaking its lines."""
        formatter.write(self.ending)

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse twice: once to see which checkpoints are named, then with the configuration as defaults."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        try:
            return self._parsed(ctx, args)
        except Exception:
            computes_alone = "--nproc=1" in args or ("--nproc", "1") in pairwise(args)
            if getattr(self.callback, "ranks", False) and not computes_alone:
                ranks.take_place(ranks.Place.found(os.environ))  # of several the first says it
            raise

    def _parsed(self, ctx: typer.Context, args: list[str]) -> list[str]:
        session.begin(session.Session(self.name))
        ctx.meta[_WORDS] = [str(self.name), *args]
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        help_option = self.get_help_option(ctx)
        if help_option is not None and given.get(help_option.name) is True:
            ctx.meta[_EVERY_OPTION] = bool(given.get("verbose"))
            return super().parse_args(ctx, args)
        listed: list[str] = []
        configured = self._configure(ctx, with_listed(self, given, listed))
        try:
            left = super().parse_args(ctx, args)
            ctx.params = with_listed(self, ctx.params, listed)
            return left
        except Exception as error:
            name = str(getattr(getattr(error, "param", None), "name", ""))
            source = ctx.get_parameter_source(name) if name in configured else None
            if source is None or source.name != "DEFAULT_MAP":  # the command line is to blame
                raise
            raise UsageError(
                f"{configured[name]}: {visible(complaint(error))}", hint=f"{nearest_choice(error)}Correct it there."
            ) from error

    def _configure(self, ctx: typer.Context, given: Mapping[str, Any]) -> dict[str, str]:
        """Set the context's defaults from project and environment; by parameter name, the words naming the source."""
        command, flags = str(self.name), _flags(ctx)
        own = flags[command]
        environment = configuration.environment_values(os.environ, own)
        named = {**{own[flag].parameter: value for flag, (value, _) in environment.items()}, **given}
        project, written = _written(command, flags, named_checkpoints(self, named), bool(given.get("trust")))
        written = configuration.without_other_optimizers(written, named.get("optimizer"))
        if not given.get("trust"):
            used = {flag: value for flag, (value, _) in written.items() if own[flag].parameter not in named}
            refuse_untrusted(project, used)
        chosen = {**written, **environment}
        origins = {**dict.fromkeys(written, "project"), **dict.fromkeys(environment, "environment")}
        ctx.default_map = {own[flag].parameter: value for flag, (value, _) in chosen.items()}
        ctx.meta[_PROJECT] = project
        ctx.meta[_ORIGINS] = {own[flag].parameter: origin for flag, origin in origins.items()}
        return {own[flag].parameter: where for flag, (_, where) in chosen.items()}

    def invoke(self, ctx: typer.Context) -> int:  # type: ignore[override]
        """Run the command and show its answer; the exit code. Several ranks run it together."""
        place, nproc = None, ctx.params.get("nproc")
        if getattr(self.callback, "ranks", False) and nproc != 1:
            place = ranks.Place.found(os.environ)
            if place is None and nproc is not None:
                return self.launch(ctx.meta[_WORDS], nproc)
            if place is not None and nproc not in (None, place.count):
                ranks.take_place(place)
                raise UsageError(
                    f"--nproc {nproc} was given to one of {place.count} ranks that were started together.",
                    "Leave --nproc out, or give --nproc 1 to compute alone.",
                )
        joined = ranks.ALONE if place is None else ranks.join(place)
        try:
            return self._answer(ctx)
        except typer.Exit:  # an answer with an exit code of its own
            raise
        except BaseException as error:
            joined.say_farewell(failure.understood(error))
            raise

    def _answer(self, ctx: typer.Context) -> int:
        running = self._begin(ctx)
        if not running.output.quiet:
            for path in running.project.skipped:  # code could hide in keys that declare nothing
                with contextlib.suppress(UsageError, OSError):
                    table = read_configuration(path)
                    if unused := sorted(set(table.values if table else ()) - DATA_KEYS - {"ckpt"}):
                        streams.say(
                            f"note: {visible(str(path))} lies beside the checkpoint and is data only; not used: "
                            f"{', '.join(map(visible, unused))} (--trust lifts that for one call)"
                        )
            for name in configuration.ignored_variables(os.environ, str(self.name), _flags(ctx)):
                streams.say(f"note: {visible(name)} has no effect")
        streams.guard_answer()
        with contextlib.nullcontext() if getattr(self.callback, "lasting", False) else progress("reading"):
            answers = self.answer_to(ctx)
        return show(answers)

    @contextlib.contextmanager
    def called(self, words: Sequence[str], unrepeatable: Collection[str] = ()) -> Iterator[typer.Context]:
        """A call with these words alone, without configuration or environment; its session has begun.

        `unrepeatable`: options whose values nobody can type, so that no advice repeats them. What typer says of wrong
        words is raised as it is.
        """
        ctx = typer.Context(self, info_name=f"fromage-diag {self.name}")
        with ctx:
            super().parse_args(ctx, list(words))
            ctx.meta[_PROJECT], ctx.meta[_ORIGINS] = ProjectConfiguration(), {}
            begun = self._begin(ctx)
            said = {name: value for name, value in begun.settings.items() if name not in unrepeatable}
            session.begin(replace(begun, settings=said))
            yield ctx

    def answer_to(self, ctx: typer.Context) -> Answers:
        """What the command answers in a call, of which nothing is shown."""
        answers: Answers = _run(super().invoke, ctx)
        return answers

    def _begin(self, ctx: typer.Context) -> session.Session:
        """The session of this call; what is wrong with its output is found now."""
        output: OutputOptions = assemble(OutputOptions, ctx.params)
        settings = {snake_case(option): ctx.params.get(option.name) for option in options(self)}
        checkpoints = named_checkpoints(self, ctx.params)
        begun = session.Session(
            self.name, output, None, ctx.meta[_PROJECT], settings, origins(ctx, ctx.meta[_ORIGINS]), checkpoints
        )
        session.begin(begun)
        output = _one_format(output, begun.origins)
        if tables := getattr(self.callback, "tables", ()):
            check_table(output.table, tables)
        input_files.name_inputs(_words(ctx.params), checkpoints)
        own = getattr(self.callback, "own_format", None)
        if own is not None and ctx.params.get("estimate"):  # the cost is no document of its own
            place = output.output
            output = replace(output, output=None if place is not None and place.suffix == f".{own}" else place)
            own = None
        destination = prepare_output(output, own)
        settings = {**settings, "format": destination.format, "json": destination.format == "json"}
        ready = replace(begun, output=output, destination=destination, settings=settings)
        session.begin(ready)
        return ready


class Program(TyperGroup):
    """The program itself; of its commands it knows the first lines, and imports the one that is asked for."""

    def offer(
        self,
        lines: Mapping[str, str],
        load: Callable[[str], Callable[..., Answers]],
        endings: Mapping[str, str],
        launch: Launch,
    ) -> None:
        """From now on these are the commands, by name with the first line of their help; `load` imports one.

        `endings`: what their help ends with, and by the empty name that of the program itself. `launch` starts one
        again in several ranks.
        """
        self.commands = {name: TyperCommand(name, help=line, short_help=line) for name, line in lines.items()}
        self._load, self._endings, self._launch = load, endings, launch
        self._loaded: dict[str, DiagnosticCommand] = {}

    def format_epilog(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the ending without breaking its lines."""
        formatter.write(self._endings.get("", ""))

    def command(self, name: str) -> DiagnosticCommand:
        """The command of that name with all its options."""
        if name not in self._loaded:
            app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
            app.command(name, cls=DiagnosticCommand)(self._load(name))
            self._loaded[name] = cast(DiagnosticCommand, typer.main.get_command(app))
            self._loaded[name].ending = self._endings.get(name, "")
            self._loaded[name].launch = self._launch
        return self._loaded[name]

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """The command that is asked for; where there is none of that name, the nearest one is named."""
        name = args[0]
        if name in self.commands:
            return name, self.command(name), args[1:]
        if name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = get_close_matches(name, list(self.commands), n=3, cutoff=0.4) or list(self.commands)
        raise UsageError(f"There is no command {visible(name)!r}.", hint=f"Nearest: {', '.join(near)}.")


def _flags(ctx: typer.Context) -> CommandFlags:
    assert ctx.parent is not None  # a command runs below its program
    return CommandFlags(ctx.parent.command)


def _written(
    command: str, flags: CommandFlags, checkpoints: Sequence[str], trusted: bool
) -> tuple[ProjectConfiguration, dict[str, tuple[Any, str]]]:
    """The project's configuration and what it sets for the command, as far as the checkpoint's place allows.

    A configuration that itself names a checkpoint in its own directory gives that name alone: the rest is data.
    """
    if command == "trust":  # which is asked whether that file may be heard
        return ProjectConfiguration(), {}
    try:
        project = find_project(Path.cwd(), () if trusted else checkpoints)
        chosen = configuration.flag_values(project, command, flags)
    except FileNotFoundError:
        return ProjectConfiguration(), {}
    except UsageError:
        if command == "doctor":  # which tells what is wrong with that file
            return ProjectConfiguration(), {}
        raise
    if trusted or checkpoints or project.source is None or "ckpt" not in chosen:
        return project, chosen
    value = chosen["ckpt"][0]
    if not is_beside(project.source, value if isinstance(value, list) else [value]):
        return project, chosen
    return ProjectConfiguration(skipped=(*project.skipped, project.source)), {"ckpt": chosen["ckpt"]}


def _one_format(output: OutputOptions, origins: Mapping[str, str]) -> OutputOptions:
    """The output options without `--json` where `--format` of a stronger source says otherwise."""
    if not output.json or output.format in ("auto", "json"):
        return output
    if outranks(origins["json"], origins["format"]):
        return output
    if outranks(origins["format"], origins["json"]):
        return replace(output, json=False)
    raise UsageError(f"--json and --format {output.format} contradict each other.", hint="Give one of them.")


def _words(values: Mapping[str, Any]) -> list[str]:
    """Every text among the parameters that may name what is read."""
    named = [value for name, value in values.items() if name not in ("output", "plot")]
    texts = [text for value in named for text in (value if isinstance(value, list | tuple) else [value])]
    return [str(text) for text in texts if isinstance(text, str | Path)]


def _run(invoke: Any, ctx: typer.Context) -> Any:
    """Run the body; what typer would misread for its own signals is told apart here."""

    def say_warning(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
        text = visible(" ".join(str(message).split()))
        streams.say(f"warning: {category.__name__}: {text} ({Path(filename).name}:{lineno})")

    with warnings.catch_warnings():
        if session.current().output.verbose:
            warnings.simplefilter("default")
            warnings.showwarning = say_warning
        else:
            warnings.simplefilter("ignore")
        try:
            return invoke(ctx)
        except (EOFError, BrokenPipeError) as error:
            raise RuntimeError(f"{type(error).__name__}: {words_of(error)}") from error
        except SystemExit as exit:
            streams.raise_closed_pipe(exit)
            raise InputError(f"The code that was run asked to exit ({exit.code}).", hint=_EXITING) from exit
