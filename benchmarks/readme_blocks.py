"""Runs the commands that README.md and docs/ show on a terminal of 80 columns, and compares what they print.

    python benchmarks/readme_blocks.py                      # the differences; exit 1 where there are any
    python benchmarks/readme_blocks.py --write              # puts it into the pages, and draws the picture
    python benchmarks/readme_blocks.py docs/distance.md     # that page alone

They run in a temporary directory that holds the files of `readme_files.py`. A line that holds nothing but `…` stands
for any number of lines. A block that is printed on several pages is run once.
"""

import argparse
import difflib
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from readme_files import ROOT, make_files, pages
from readme_picture import draw_pictures
from readme_terminal import on_terminal

BLOCK = re.compile(r"(?<=```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
LEFT_OUT = "…"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
AT_ONCE = 2


def main() -> int:
    """Compare or rewrite every block; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="pages to look at; default: all")
    parser.add_argument("--write", action="store_true", help="put what was printed into the pages")
    arguments = parser.parse_args()
    chosen = [page.resolve() for page in arguments.pages] or pages()
    with tempfile.TemporaryDirectory() as directory:
        make_files(Path(directory))
        if arguments.write and chosen[0] == pages()[0]:
            draw_pictures(Path(directory))
        printed = outputs(chosen, Path(directory))
    silent = [command for command, lines in printed.items() if not lines]
    for command in silent:
        print(f"printed nothing, and is left as it was: {command}", file=sys.stderr)
    differences: list[str] = []
    for page in chosen:
        shown, text = page.read_text(encoding="utf-8"), reprinted(page, printed)
        if arguments.write:
            page.write_text(text, encoding="utf-8")
        name = page.relative_to(ROOT).as_posix()
        differences += difflib.unified_diff(shown.splitlines(), text.splitlines(), name, "printed", lineterm="")
    if arguments.write:
        return 1 if silent else 0
    print("\n".join(differences) or "The pages show what the commands print.")
    return 1 if differences or silent else 0


def outputs(chosen: Sequence[Path], directory: Path) -> dict[str, list[str]]:
    """What every command of the pages prints, each run once in the directory."""
    blocks = [block for page in chosen for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    commands = list(dict.fromkeys(command for block in blocks for command, _, _ in parts(block)))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        printed = pool.map(lambda command: terminal_output(command, directory), commands)
    return dict(zip(commands, printed, strict=True))


def reprinted(page: Path, printed: Mapping[str, list[str]]) -> str:
    """The page's text with every command's own output in place of what stands there."""

    def renew(block: re.Match[str]) -> str:
        lines: list[str] = []
        for command, own, shown in parts(block[0]):
            lines += [*own, *elided(shown, printed.get(command) or shown)]  # a page may be edited meanwhile
        return "".join(f"{line}\n" for line in lines)

    return BLOCK.sub(renew, page.read_text(encoding="utf-8"))


def parts(block: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each command of a block, its lines on the page, and the lines shown below it."""
    for part in re.split(r"^(?=\$ )", block, flags=re.MULTILINE):
        lines = part.splitlines()
        if not lines:
            continue
        end = next(index for index, line in enumerate(lines) if not line.endswith("\\"))
        while lines[end].rstrip().endswith("|"):  # a pipe goes on in the next line
            end += 1
        yield "\n".join(lines[: end + 1]).removeprefix("$ "), lines[: end + 1], lines[end + 1 :]


def elided(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """What was printed, with the lines left out that the block leaves out; all of it where that cannot be told."""
    if LEFT_OUT not in shown:
        return list(printed)
    kept = [line for line in shown if line != LEFT_OUT and line.strip()]
    if not kept:
        return list(shown)
    first = next((index for index, line in enumerate(printed) if line[:12] == kept[0][:12]), None)
    last = next((index for index in range(len(printed), 0, -1) if printed[index - 1][:12] == kept[-1][:12]), None)
    if first is None or last is None:
        return list(printed)
    return [
        *([LEFT_OUT] if shown[0] == LEFT_OUT else []),
        *printed[first:last],
        *([LEFT_OUT] if shown[-1] == LEFT_OUT else []),
    ]


def terminal_output(command: str, directory: Path) -> list[str]:
    """The lines that a command prints on a terminal of 80 columns, without colours and spaces at their ends."""
    received = COLOUR.sub("", on_terminal(command, directory, {"NO_COLOR": "1", "TERM": "dumb"}))
    lines = [line.rstrip() for line in received.replace("\r\n", "\n").splitlines()]
    return "\n".join(lines).strip("\n").split("\n") if any(lines) else []


if __name__ == "__main__":
    sys.exit(main())
