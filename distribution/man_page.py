"""The manual page of fromage-diag, made from the program's help.

python distribution/man_page.py            # exit 1 where fromage-diag.1 is not what the help says
python distribution/man_page.py --write    # writes it anew
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from fromage_cli import __version__
from fromage_cli.cli import EXIT_CODES, FIRST_EXAMPLES, HELP, PROGRAM, build_program
from fromage_cli.diagnostics import EXAMPLES
from fromage_cli.own_commands import OWN_EXAMPLES
from fromage_cli.terminal.help_page import option_records, usage

PAGE = Path(__file__).resolve().parent / "fromage-diag.1"
ENVIRONMENT = (
    ("FROMAGE_DIAG_FLAG", "Sets a flag of all commands that have it, such as FROMAGE_DIAG_DTYPE=float64."),
    ("NO_COLOR, COLUMNS", "No colours, and the width of a page."),
    ("OMP_NUM_THREADS", "The threads that torch computes with."),
    ("XDG_CONFIG_HOME", "Holds what was trusted, in fromage-diag/trusted."),
)
FILES = (("fromage.toml, pyproject.toml", "The project's configuration, nearest upwards from the working directory."),)
Record = tuple[str, str]


def man_page() -> str:
    """The whole page in the language of troff."""
    program: Any = build_program()
    commands = {name: options_of(program.command(name)) for name in program.commands}
    shared = shared_options(list(commands.values()))
    lines = [
        f'.TH FROMAGE-DIAG 1 "" "{PROGRAM} {__version__}" "User Commands"',
        *_section("NAME"),
        rf"{_plain(PROGRAM)} \- questions about a saved neural network, answered from the shell",
        *_section("SYNOPSIS"),
        *(rf".B {_plain(PROGRAM)} {name}" + f"\n{_plain(usage(program.command(name)))}\n.br" for name in commands),
        *_section("DESCRIPTION"),
        _plain(HELP),
        "Options stand after the command. The sections at the end explain those that many commands share.",
        _plain("The option --help shows the options of a command, with -v all of them; --version shows the version."),
    ]
    for name, options in commands.items():
        lines += [*_section(f"{PROGRAM} {name}".upper()), _plain(_first_lines(program.command(name)))]
        lines += [line for title, record in options if (title, record) not in shared for line in _tagged(*record)]
        titles = dict.fromkeys(title for title, record in options if (title, record) in shared)
        lines += [".PP", f"Shared options: {', '.join(titles)}."] if titles else []
        lines += [".PP", "Examples:", *_examples((EXAMPLES | OWN_EXAMPLES)[name])]
    for title in dict.fromkeys(title for title, _ in shared):
        lines += _section(f"{title} options".upper())
        lines += [line for each, record in shared if each == title for line in _tagged(*record)]
    for title, records in (("EXIT STATUS", EXIT_CODES), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        lines += [*_section(title), *(line for record in records for line in _tagged(*record))]
    return "\n".join([*lines, *_section("EXAMPLES"), *_examples(FIRST_EXAMPLES)]) + "\n"


def options_of(command: Any) -> list[tuple[str, Record]]:
    """The arguments and options of a command with the titles of their groups."""
    with typer.Context(command, info_name=f"{PROGRAM} {command.name}") as context:
        found = option_records(command, context)
        return [(title, record) for title, parameter, record in found if parameter != "help"]


def shared_options(commands: Sequence[Sequence[tuple[str, Record]]]) -> list[tuple[str, Record]]:
    """The options of groups that three commands or more have in the same words, group by group.

    Of options with one name those are shared whose words most commands have.
    """
    every = Counter(option for options in commands for option in options if option[0] not in ("Arguments", "Options"))
    commonest = {name: (title, (name, words)) for (title, (name, words)), _ in reversed(every.most_common())}
    found = [option for option, count in every.items() if count > 2 and commonest[option[1][0]] == option]
    titles = list(dict.fromkeys(title for title, _ in found))
    return sorted(found, key=lambda option: titles.index(option[0]))


def _first_lines(command: Any) -> str:
    return " ".join(str(command.help).split())


def _section(title: str) -> list[str]:
    return [f'.SH "{_plain(title)}"']


def _tagged(name: str, words: str) -> list[str]:
    return [".TP", rf"\fB{_plain(name)}\fR", _plain(words)]


def _examples(examples: Sequence[Record]) -> Iterator[str]:
    for line, words in examples:
        yield from _tagged(line if PROGRAM in line else f"{PROGRAM} {line}", words)


def _plain(text: str) -> str:
    """The text without what troff would take for its own: backslashes, hyphens, a point or a quote at the start."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped[:1] in (".", "'") else escaped


def main() -> int:
    """Compare or write the page; the exit code."""
    page = man_page()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page
    sys.stdout.write("" if same else "Type: python distribution/man_page.py --write\n")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
