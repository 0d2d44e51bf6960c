"""The program `fromage-diag`: runs one command, and turns an error into a message and an exit code."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Annotated, Any, NoReturn, cast

import typer

from fromage_cli import __version__, ranks, stopping
from fromage_cli.diagnostics import COMMANDS, EXAMPLES, NOT_IN_A_CHECKPOINT, SYMPTOMS
from fromage_cli.errors import EXIT_CODES
from fromage_cli.launching import launch
from fromage_cli.own_commands import OWN_COMMANDS, OWN_EXAMPLES
from fromage_cli.terminal import failure, input_files, session, streams
from fromage_cli.terminal.answer import Answers
from fromage_cli.terminal.command import Program

PROGRAM = "fromage-diag"
CLOSED_PIPE = 141
SIGNALS = 128
"""Exit codes above it are a signal's; help names them in one line."""
WIDEST_HELP = 120
"""Columns: longer lines are hard to follow."""
_COMPLETION = "_FROMAGE_DIAG_COMPLETE"

HELP = "Answers questions about a saved neural network: give it a checkpoint and a batch, no training loop."

OWN_MODULES = {
    "watch": "fromage_cli.watching.command",
    "report": "fromage_cli.report.command",
    "bundle": "fromage_cli.bundle.command",
    "trust": "fromage_cli.terminal.trust_command",
    "doctor": "fromage_cli.doctor.command",
    "explain": "fromage_cli.reference.explain_command",
    "schema": "fromage_cli.reference.schema_command",
}
FIRST_EXAMPLES = (
    ("breakdown checkpoint.safetensors", "what stands beside the checkpoint is found"),
    ("suggest-lr model.pt --model net.py:build --batch data.npz", "your own network and data"),
    ("inspect model.pt --json", "for a script"),
)


def load_command(name: str) -> Callable[..., Answers]:
    """The function behind a command's name; its module imports neither torch nor numpy before it runs."""
    diagnostics = f"fromage_cli.diagnostics.{name.replace('-', '_')}.command"
    command: Callable[..., Answers] = import_module(OWN_MODULES.get(name, diagnostics)).command
    return command


def build_program(
    commands: Mapping[str, str] = COMMANDS | OWN_COMMANDS, load: Callable[[str], Callable[..., Answers]] = load_command
) -> Program:
    """The program with these commands, by name with the first line of their help; `load` finds their functions."""
    app = typer.Typer(
        name=PROGRAM,
        cls=Program,
        help=HELP,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST_HELP},
        pretty_exceptions_enable=False,
    )
    app.callback()(_program)
    program = cast(Program, typer.main.get_command(app))
    endings = {name: _ending(examples) for name, examples in (EXAMPLES | OWN_EXAMPLES).items()}
    program.offer(commands, load, endings | {"": _ending(FIRST_EXAMPLES, _symptoms())}, partial(launch, as_rank))
    return program


def _ending(examples: Sequence[tuple[str, str]], between: str = "") -> str:
    """What a help ends with: examples, and what the exit codes mean."""
    typed = ((line if PROGRAM in line else f"{PROGRAM} {line}", words) for line, words in examples)
    shown = "".join(f"  {line}\n      {words}\n" for line, words in typed)
    (signal, said), *others = [entry for entry in EXIT_CODES if int(entry[0]) > SIGNALS]
    last = "; ".join([said, *(f"{code}: {words}" for code, words in others)])
    rows = [*(entry for entry in EXIT_CODES if int(entry[0]) < SIGNALS), (signal, last)]
    codes = "".join(f"  {code:>3}  {words}\n" for code, words in rows)
    return f"\nExamples:\n{shown}{between}\nExit codes:\n{codes}"


def _symptoms() -> str:
    """What people see in training, with the command that looks for it."""
    lines = "".join(f"  {seen:<26}{command:<22}{answer}\n" for seen, command, answer in SYMPTOMS)
    return f"\n  What you see              Command               A bad answer\n{lines}  {NOT_IN_A_CHECKPOINT}\n"


def _show_version(asked: bool) -> None:
    if asked:
        streams.write(sys.stdout, f"{PROGRAM} {__version__}\n")
        raise typer.Exit()


def _program(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Show the version and exit.", is_eager=True, callback=_show_version)
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

    with (
        input_files.watched(),
        ranks.scope(),
        session.scope(),
        streams.answering(),
        stopping.stoppable(streams.say, give_up, echoes=ranks.LAUNCHED in os.environ),
    ):
        try:
            code = run(given, program or build_program())
        except (streams.ClosedPipe, BrokenPipeError):
            streams.abandon(streams.answer(), sys.stdout, sys.stderr)
            code = CLOSED_PIPE
        several = ranks.current().several
        if several and code in ranks.ENDED_BY_SIGNALS:  # there may be a sum that never ends
            os._exit(code)
    if several and ranks.LAUNCHED not in os.environ:  # torch's threads may abort a process that is taken down in order
        for stream in (sys.stdout, sys.stderr):
            streams.flush(stream)
        os._exit(code)
    sys.exit(code)


def as_rank(args: Sequence[str]) -> int:
    """Return the exit code of the program as one of several ranks."""
    try:
        main(args)
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 1


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
