"""Show answers in the format asked for, and what belongs beside them on standard error."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from fromage_cli import ranks
from fromage_cli.errors import FromageError, UsageError
from fromage_cli.findings import gravest_remedy
from fromage_cli.terminal import rows, session, streams
from fromage_cli.terminal.answer import Answer, Answers, PageStyle
from fromage_cli.terminal.colours import console_on
from fromage_cli.terminal.documents import document
from fromage_cli.terminal.envelope import exit_code, worst_severity
from fromage_cli.terminal.failure import message_lines
from fromage_cli.terminal.github import append_summary
from fromage_cli.terminal.output import Destination, write_file
from fromage_cli.terminal.words import ascii_words, visible

if TYPE_CHECKING:
    from rich.console import RenderableType


def show(given: Answers) -> int:
    """Write the answers to their destination and their notes to standard error; the exit code under `--fail-on`.

    Of several ranks the first one writes. Of several answers the gravest decides. Raises the first one's own error once
    everything has been shown.
    """
    results = [given] if isinstance(given, Answer) else list(given)
    answers = [result for result in results if isinstance(result, Answer)]
    running = session.current()
    destination = running.destination or Destination("rich")
    if answers and ranks.current().leads:
        _deliver(rendered(results, destination), destination)
        if destination.format == "github":
            append_summary(results, running.circumstances)
    for answer in answers if not running.output.quiet else ():
        details = answer.details if destination.format != "rich" or running.output.verbose else ()
        for note in (*details, *answer.notes):
            streams.say(f"note: {visible(note)}")
        if destination.format in ("tsv", "csv"):
            for line in rows.finding_lines(answer.findings, running.output.show_all):
                streams.say(line)
    errors = [result.error if isinstance(result, Answer) else result for result in results]
    met = [error for error in errors if error is not None]
    for error in met[1:]:
        streams.say("\n".join(message_lines(error, running.output.verbose)))
    if met:
        raise met[0]
    return max((exit_code(answer, running.output.fail_on) for answer in answers), default=0)


def _deliver(text: str, destination: Destination) -> None:
    if destination.path is not None:
        write_file(destination.path, text, destination.force)
    elif destination.format != "rich" and streams.ascii_only(streams.answer()):
        streams.write(streams.answer(), text.encode("ascii", "backslashreplace").decode("ascii"))
    else:
        streams.write(streams.answer(), text)
    session.deliver()


def rendered(results: Sequence[Answer | FromageError], destination: Destination) -> str:
    """The answers as text in the destination's format; an error is part of a document, else nothing.

    Pages stand one below the other. Tables become one, with the checkpoint's path in front.
    """
    answers = [result for result in results if isinstance(result, Answer)]
    if any(answer.alone is not None for answer in answers):
        return "".join(f"{answer.alone}\n" for answer in answers if answer.alone is not None)
    running = session.current()
    format = destination.format
    if destination.document:
        return document(format, results, running.circumstances)
    if format == "rich":
        if running.output.table is not None:
            raise UsageError("A page shows no --table; tsv, csv and md do.", hint="Add --format tsv.")
        return "\n".join(page(answer, None if destination.path else streams.answer()) for answer in answers)
    table = rows.joined_table(answers, running.output.table, several=len(results) > 1)
    if format == "md":
        told = () if running.output.quiet else answers
        return rows.markdown(table, [finding for answer in told for finding in answer.findings])
    return rows.WRITERS[format](table)


def page(answer: Answer, stream: TextIO | None) -> str:
    """The page for a person, as wide as the stream's terminal; plain text in a pipe, and in a file (None)."""
    ascii_only, output = streams.ascii_only(stream), session.current().output
    style = PageStyle(output.show_all, ascii_only, streams.width(stream), output.verbose)
    console = console_on(stream, _Paper("ascii" if ascii_only else "utf-8"), style.width)
    with console.capture() as capture:
        console.print(*page_parts(answer, style), sep="\n", crop=False)
    lines = (line.rstrip() for line in capture.get().splitlines())
    text = "\n".join(lines) + "\n"
    return ascii_words(text) if ascii_only else text


def page_parts(answer: Answer, style: PageStyle) -> "list[RenderableType]":
    """What a page consists of, from the header down to what to do now."""
    from rich.text import Text

    from fromage_cli.terminal.page import header, what_now
    from fromage_cli.terminal.tables import Harmless, finding_list

    parts: list[RenderableType] = [header(answer.header, style), Text("")] if answer.header else []
    parts.append(answer.page(style))
    if findings := [found for found in answer.findings if style.verbose or found.code not in answer.told]:
        parts.append(finding_list(findings, style))
    own = answer.advice if worst_severity(answer) == "info" else ""
    if advice := own or gravest_remedy(answer.findings):
        parts.append(what_now(advice, style))
    return [Harmless(part) for part in parts]


class _Paper(io.StringIO):
    """A text in memory that claims the terminal's encoding, so that rich draws lines the terminal has."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding
