"""The program `fromage-diag`: gathers the commands, and turns an error into one message and an exit code."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from fromage_cli import __version__
from fromage_cli.diagnostics import COMMANDS
from fromage_cli.terminal import arguments, failure, session, streams
from fromage_cli.terminal.answer import Answers
from fromage_cli.terminal.command import DiagnosticCommand, Program

PROGRAM = "fromage-diag"
CLOSED_PIPE = 141
_COMPLETION = "_FROMAGE_DIAG_COMPLETE"

HELP = "Questions about a saved neural network, answered from the shell: a checkpoint, a batch, no training loop."
EPILOG = """\
Examples:

  fromage-diag breakdown checkpoint.safetensors

  fromage-diag breakdown model.pt --model net.py:build --batch data.npz --json
"""


class TerminationRequested(BaseException):
    """SIGTERM arrived."""


def load_commands(names: Sequence[str] = COMMANDS) -> dict[str, Callable[..., Answers]]:
    """The functions behind the names; none of their modules imports torch or numpy before it runs."""
    return {name: import_module(f"fromage_cli.diagnostics.{name.replace('-', '_')}.command").command for name in names}


def build_app(commands: Mapping[str, Callable[..., Answers]]) -> typer.Typer:
    """The application made of these commands, in this order."""
    app = typer.Typer(
        name=PROGRAM,
        cls=Program,
        help=HELP,
        epilog=EPILOG,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )
    app.callback()(_program)
    for name, function in commands.items():
        app.command(name, cls=DiagnosticCommand)(function)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        streams.write(sys.stdout, f"{PROGRAM} {__version__}\n")
        raise typer.Exit()


def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """The options of the program itself; all others belong to its commands."""


def main(args: Sequence[str] | None = None, commands: Mapping[str, Callable[..., Answers]] | None = None) -> NoReturn:
    """Run the program on these arguments and exit."""
    given = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        streams.make_safe(stream)
    with session.scope(), _terminable():
        try:
            code = run(given, commands)
        except (streams.ClosedPipe, BrokenPipeError):
            streams.abandon(sys.stdout, sys.stderr)
            code = CLOSED_PIPE
    sys.exit(code)


def run(args: Sequence[str], commands: Mapping[str, Callable[..., Answers]] | None = None) -> int:
    """The exit code of one run; errors have been shown, only a closed pipe is passed on."""
    try:
        return _dispatch(list(args) or ["--help"], commands)
    except typer.Exit as exit:
        streams.flush(sys.stdout)
        return exit.exit_code
    except (streams.ClosedPipe, BrokenPipeError):
        raise
    except SystemExit as exit:
        streams.raise_closed_pipe(exit)
        raise
    except TerminationRequested:
        return _report(failure.Terminated("terminated."), args)
    except (Exception, KeyboardInterrupt) as error:
        return _report(error, args)


def _dispatch(args: list[str], commands: Mapping[str, Callable[..., Answers]] | None) -> int:
    program: Any = typer.main.get_command(build_app(load_commands() if commands is None else commands))
    if os.environ.get(_COMPLETION):
        program.main(args=args, prog_name=PROGRAM, complete_var=_COMPLETION)
    with program.make_context(PROGRAM, args) as context:
        code = program.invoke(context)
    streams.flush(sys.stdout)
    return code if isinstance(code, int) else 0


def _report(error: BaseException, args: Sequence[str]) -> int:
    asked = arguments.understood(args)
    return failure.report(error, asked, shown=session.current().delivered)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises TerminationRequested, so that what was half written is removed."""

    def request(number: int, frame: FrameType | None) -> NoReturn:
        raise TerminationRequested

    try:
        previous = signal.signal(signal.SIGTERM, request)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
