"""The program `fromage-diag`: runs one command, and turns an error into a message and an exit code."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any, NoReturn, cast

import typer

from fromage_cli import __version__, stopping
from fromage_cli.diagnostics import COMMANDS
from fromage_cli.terminal import failure, session, spared, streams
from fromage_cli.terminal.answer import Answers
from fromage_cli.terminal.command import Program

PROGRAM = "fromage-diag"
CLOSED_PIPE = 141
_COMPLETION = "_FROMAGE_DIAG_COMPLETE"

HELP = "Questions about a saved neural network, answered from the shell: a checkpoint, a batch, no training loop."
EPILOG = """\
Examples:

  fromage-diag breakdown checkpoint.safetensors

  fromage-diag breakdown model.pt --model net.py:build --batch data.npz --json
"""


OWN_COMMANDS = {"trust": "Let code that this directory's configuration names run from now on."}
"""Commands on the program itself, with the first line of their help."""


def load_command(name: str) -> Callable[..., Answers]:
    """The function behind a command's name; its module imports neither torch nor numpy before it runs."""
    own = f"fromage_cli.terminal.{name}_command"
    diagnostics = f"fromage_cli.diagnostics.{name.replace('-', '_')}.command"
    command: Callable[..., Answers] = import_module(own if name in OWN_COMMANDS else diagnostics).command
    return command


def build_program(
    commands: Mapping[str, str] = COMMANDS | OWN_COMMANDS, load: Callable[[str], Callable[..., Answers]] = load_command
) -> Program:
    """The program with these commands, by name with the first line of their help; `load` finds their functions."""
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
    program = cast(Program, typer.main.get_command(app))
    program.offer(commands, load)
    return program


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


def main(args: Sequence[str] | None = None, program: Program | None = None) -> NoReturn:
    """Run the program on these arguments and exit."""
    given = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        streams.make_safe(stream)

    def give_up(reason: BaseException) -> None:
        os._exit(failure.report(reason, given))

    with spared.watched(), session.scope(), streams.answering(), stopping.stoppable(streams.say, give_up):
        try:
            code = run(given, program or build_program())
        except (streams.ClosedPipe, BrokenPipeError):
            streams.abandon(streams.answer(), sys.stdout, sys.stderr)
            code = CLOSED_PIPE
    sys.exit(code)


def run(args: Sequence[str], program: Any) -> int:
    """The exit code of one run; errors have been shown, only a closed pipe is passed on."""
    try:
        words = list(args) or ["--help"]
        if os.environ.get(_COMPLETION):
            program.main(args=words, prog_name=PROGRAM, complete_var=_COMPLETION)
        with program.make_context(PROGRAM, words) as context:
            code = program.invoke(context)
        streams.flush(sys.stdout)
        return code if isinstance(code, int) else 0
    except typer.Exit as exit:
        streams.flush(sys.stdout)
        return exit.exit_code
    except (streams.ClosedPipe, BrokenPipeError):
        raise
    except SystemExit as exit:
        streams.raise_closed_pipe(exit)
        raise
    except BaseException as error:
        stopping.end()
        return failure.report(error, args)
