"""The pages docs/commands.md and docs/api.md, made from the help and from the docstrings of the code.

python distribution/reference_pages.py            # exit 1 where a page is not what the code says
python distribution/reference_pages.py --write    # writes both anew
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from man_page import ENVIRONMENT, Record, options_of, shared_options

from fromage_cli import errors
from fromage_cli.cli import EXIT_CODES, HELP, PROGRAM, build_program
from fromage_cli.diagnostics import EXAMPLES
from fromage_cli.own_commands import OWN_EXAMPLES
from fromage_cli.terminal.help_page import usage

ROOT = Path(__file__).resolve().parents[1]
PAGES_OF_COMMANDS = {"bundle": "bundles", "trust": "safety", "schema": "scripts"}
"""Commands whose page in docs has another name than they."""
PUBLIC = (
    ("Questions", "api", "api/__init__.py"),
    ("Answers", "api.report", "api/report.py"),
    ("Bundles", "bundle", "bundle/__init__.py"),
    ("Callbacks", "callbacks.lightning", "callbacks/lightning.py"),
    ("Callbacks", "callbacks.transformers", "callbacks/transformers.py"),
    ("Optimizers", "optim", "optim/fromage.py"),
    ("Optimizers", "optim", "optim/lars.py"),
    ("Optimizers", "optim", "optim/lamb.py"),
    ("Optimizers", "optim", "optim/lion.py"),
)
"""Section, module to import from, and the file of the package whose public functions or classes stand there."""
COMMANDS_OPENING = f"""# Commands and options

{HELP}

This page is made from the help of the program. `{PROGRAM} COMMAND --help -v` prints the same in a shell.
Options stand after the command. Those that many commands share are explained once, [below](#shared-options).
A [configuration file](scripts.md#configuration) can set them for a whole project.
"""
API_OPENING = """# Functions and classes

This page is made from the docstrings of the code. [Python](python.md) shows how the parts are used together.
Every module stands in the package `fromage_cli`. Modules that are not on this page are no interface.
"""


def commands_page() -> str:
    """Every command with its options as tables, and once the options that commands share."""
    program: Any = build_program()
    commands = {name: options_of(program.command(name)) for name in program.commands}
    shared = shared_options(list(commands.values()))
    parts = [COMMANDS_OPENING]
    for name, options in commands.items():
        command, page = program.command(name), PAGES_OF_COMMANDS.get(name, name)
        own = [record for title, record in options if (title, record) not in shared]
        titles = dict.fromkeys(title for title, record in options if (title, record) in shared)
        links = ", ".join(f"[{title}](#{title.lower()}-options)" for title in titles)
        examples = [
            (line if PROGRAM in line else f"{PROGRAM} {line}", words) for line, words in (EXAMPLES | OWN_EXAMPLES)[name]
        ]
        parts += [
            f"## {name}\n",
            f"```text\n{PROGRAM} {name} {usage(command)}\n```\n",
            f"{_paragraphs(command.help)}\n",
        ]
        parts += [_table("option", own)] if own else []
        parts += [f"Shared options: {links}.\n"] if links else []
        parts += [_table("example", examples), f"The page about it: [{page}]({page}.md)\n"]
    parts.append("## Shared options\n")
    for title in dict.fromkeys(title for title, _ in shared):
        parts += [f"### {title} options\n", _table("option", [record for each, record in shared if each == title])]
    parts += ["## Exit codes\n", _table("exit code", EXIT_CODES)]
    return "\n".join([*parts, "## Environment variables\n", _table("variable", ENVIRONMENT)])


def _paragraphs(text: str) -> str:
    """A text whose paragraphs keep apart and lose their line breaks."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _table(head: str, records: Sequence[Record]) -> str:
    """A table of names, set as code, and what is said of them."""
    cells = ((name.replace("|", r"\|"), words.replace("|", r"\|")) for name, words in records)
    return f"| {head} | meaning |\n|---|---|\n" + "".join(f"| `{name}` | {words} |\n" for name, words in cells)


def api_page() -> str:
    """Every public function and class with its signature and what it says of itself, then the errors."""
    parts, sections = [API_OPENING], dict.fromkeys(section for section, _, _ in PUBLIC)
    for section in sections:
        parts.append(f"## {section}\n")
        for module, file in ((module, file) for each, module, file in PUBLIC if each == section):
            source = (ROOT / "fromage_cli" / file).read_text(encoding="utf-8")
            parts += [text for node in _public(ast.parse(source)) for text in _described(node, module, source)]
    source = (ROOT / "fromage_cli" / "errors.py").read_text(encoding="utf-8")
    first, *others = _public(ast.parse(source))
    parts += [
        "## Errors\n",
        *_described(first, "errors", source),
        "The errors below are kinds of it. A command that meets one ends with its exit code.\n",
    ]
    rows = (
        f"| `{kind.name}` | {vars(errors)[kind.name].exit_code} | {_paragraphs(ast.get_docstring(kind) or '')} |\n"
        for kind in others
    )
    return "\n".join([*parts, f"| error | exit code | meaning |\n|---|---|---|\n{''.join(rows)}"])


def _public(tree: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
    """The public classes of a module; where it has none, its public functions."""
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    return [node for node in found if isinstance(node, ast.ClassDef)] or found


def _described(node: ast.FunctionDef | ast.ClassDef, module: str, source: str) -> Iterator[str]:
    """A heading, how it is called, its docstring, and the fields and properties of a class."""
    name = f"{module}.{node.name}"
    yield f"### {name}\n"
    parts = node.body if isinstance(node, ast.ClassDef) else [node]
    for called in parts:
        if isinstance(called, ast.FunctionDef) and called.name in (node.name, "__init__"):
            yield f"```py\n{_signature(called, name, source)}\n```\n"
    yield f"{_paragraphs(ast.get_docstring(node) or '')}\n"
    attributes = [
        (part.name, _paragraphs(ast.get_docstring(part) or ""))
        for part in parts
        if isinstance(part, ast.FunctionDef) and "property" in map(ast.unparse, part.decorator_list)
    ]
    if attributes:
        yield _table("attribute", attributes)


def _signature(function: ast.FunctionDef, name: str, source: str) -> str:
    """How it is called, as the source has it, without `self` and comments."""
    lines = source.splitlines()[function.lineno - 1 : function.body[0].lineno - 1]
    text = re.sub(r"  # .*", "", textwrap.dedent("\n".join(lines)))
    text = re.sub(r"\(\s*self, ?", "(", text, count=1)
    text = re.sub(r"^(.*)\n\)", r"\1)", text)  # what fits a line now
    return re.sub(r"^def \w+", name, text).removesuffix(":").removesuffix(" -> None")


PAGES = {ROOT / "docs" / "commands.md": commands_page, ROOT / "docs" / "api.md": api_page}


def main() -> int:
    """Compare or write the pages; the exit code."""
    made = {path: page() for path, page in PAGES.items()}
    if "--write" in sys.argv[1:]:
        for path, page in made.items():
            path.write_text(page, encoding="utf-8")
        return 0
    same = all(path.exists() and path.read_text(encoding="utf-8") == page for path, page in made.items())
    sys.stdout.write("" if same else "Type: python distribution/reference_pages.py --write\n")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
