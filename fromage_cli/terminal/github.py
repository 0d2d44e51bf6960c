"""GitHub Actions: findings as annotations of a job's step, and all of them as a table on the page of the run.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fromage_cli.errors import FromageError
from fromage_cli.terminal import input_files, streams
from fromage_cli.terminal.answer import Answer, Table
from fromage_cli.terminal.envelope import Circumstances, status
from fromage_cli.terminal.rows import markdown, marked
from fromage_cli.terminal.words import visible, visible_lines

SUMMARY = "GITHUB_STEP_SUMMARY"
"""The environment's variable with the file whose Markdown GitHub shows."""
LEVELS = {"fail": "error", "warn": "warning", "info": "notice"}
SHOWN = 9
"""Annotations of one level; GitHub shows ten for each step and level, and the tenth counts the rest."""
LARGEST_SUMMARY = 2**20
"""Bytes of a step's summary; GitHub takes no more."""
CUT = "\n\nThe rest is cut, as GitHub shows no more than 1 MiB. In JSON all of it stands.\n"


@dataclass(frozen=True)
class _Annotation:
    level: str
    title: str
    message: str
    """Lines without control characters."""

    @property
    def command(self) -> str:
        """The line that GitHub's runner reads."""
        return f"::{self.level} title={escaped_property(self.title)}::{escaped(self.message)}\n"


def escaped(text: str) -> str:
    """A message in a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escaped_property(text: str) -> str:
    """A property of a workflow command, such as its title."""
    return escaped(text).replace(":", "%3A").replace(",", "%2C")


def annotations(results: Sequence[Answer | FromageError], circumstances: Circumstances) -> str:
    """A workflow command a line: errors first, of each level the first nine and the number of the rest."""
    told = [one for result in results for one in _annotations(result, circumstances, len(results) > 1)]
    text = ""
    for level in LEVELS.values():
        alike = [one for one in told if one.level == level]
        left = len(alike) - SHOWN
        rest = [_Annotation(level, _title(circumstances), f"and {left} more")] if left > 0 else []
        text += "".join(one.command for one in (*alike[:SHOWN], *rest))
    return text


def _title(circumstances: Circumstances) -> str:
    return f"fromage-diag {circumstances.command or ''}".strip()


def _annotations(result: Answer | FromageError, circumstances: Circumstances, several: bool) -> Iterator[_Annotation]:
    """The error, what looked where nothing is wrong, and the findings; of several answers each names its file."""
    title = _title(circumstances)
    error = result.error if isinstance(result, Answer) else result
    if error is not None:
        yield _Annotation("error", f"{title}: {error.code}", visible_lines(f"{error.message}\n{error.hint}".strip()))
    if not isinstance(result, Answer):
        return
    place = f"{visible(result.checkpoints[0].path)}: " if several and result.checkpoints else ""
    if status(result) == "ok":
        yield _Annotation("notice", title, place + "\n".join(_looked(result, circumstances)))
    for finding in result.findings:
        layer = f"{visible(finding.prefix)}: " if finding.prefix else ""
        said = f"{place}{layer}{visible(finding.message)}\n{visible(finding.hint)}".strip()
        yield _Annotation(LEVELS[finding.severity], f"{title}: {finding.code}", said)


def _looked(answer: Answer, circumstances: Circumstances) -> list[str]:
    """The verdict with what looked, and what could not look with its reason: a sentence each."""
    others = [look.command for look in answer.looks if look.skipped is None and look.command != circumstances.command]
    looked = others or [str(circumstances.command)]
    verdict = {"ok": "Go on", "warn": "Look at this", "fail": "Stop", "error": "Not finished"}[status(answer)]
    sentences = [f"{verdict}: {', '.join(looked)} {'found nothing wrong' if verdict == 'Go on' else 'looked'}."]
    for reason in dict.fromkeys(look.skipped for look in answer.looks if look.skipped is not None):
        skipped = ", ".join(look.command for look in answer.looks if look.skipped == reason)
        sentences.append(f"Not looked: {skipped}. {visible(reason)}")
    return sentences


def append_summary(results: Sequence[Answer | FromageError], circumstances: Circumstances) -> None:
    """Append all findings to the step's summary, where GitHub asks for one; a note where it cannot be written."""
    place = os.environ.get(SUMMARY)
    if not place:
        return
    path = Path(place)
    try:
        input_files.check_no_input(path)
        room = LARGEST_SUMMARY - (path.stat().st_size if path.exists() else 0)
        with path.open("ab") as file:
            file.write(_within(_summary(results, circumstances), room).encode("utf-8", "backslashreplace"))
    except (OSError, FromageError) as error:
        reason = error.message if isinstance(error, FromageError) else str(error.strerror)
        streams.say(f"note: the summary of this step is not written: {visible(reason)}")


def _summary(results: Sequence[Answer | FromageError], circumstances: Circumstances) -> str:
    """A heading, and for each result what looked with a table of its findings; names are escaped."""
    parts = [f"### {_title(circumstances)}"]
    for result in results:
        error = result.error if isinstance(result, Answer) else result
        if isinstance(result, Answer):
            parts += [marked(visible(checkpoint.path)) for checkpoint in result.checkpoints[-1:]]
            parts += map(marked, _looked(result, circumstances))
        if error is not None:
            parts.append(f"**Error**: {marked(visible(f'{error.message} {error.hint}'.strip()))}")
        if isinstance(result, Answer) and result.findings:
            rows = [(one.severity, one.layer, one.message, one.hint, one.code) for one in result.findings]
            parts.append(markdown(Table(("severity", "layer", "finding", "what now", "code"), tuple(rows))).rstrip())
    return "\n\n".join(parts) + "\n\n"


def _within(text: str, room: int) -> str:
    """The text in so many bytes: where it is longer, its first lines and a sentence; nothing where that has no room."""
    if len(text.encode()) <= room:
        return text
    room -= len(CUT.encode())
    kept = text.encode()[: max(room, 0)].rpartition(b"\n")[0].decode()
    return kept + CUT if kept else ""
