"""A question about a bundle that a callback has just written."""

from collections.abc import Callable
from pathlib import Path

from fromage_cli.errors import words_of
from fromage_cli.terminal import streams
from fromage_cli.terminal.words import visible


def ask_about(bundle: Path | None, question: Callable[[Path], object] | None) -> None:
    """Show on standard error what a question is answered about a bundle, or why it is not answered.

    Does nothing without a question, and where no bundle was written by this process.
    """
    if bundle is None or question is None:
        return
    try:
        answer = str(question(bundle))
    except (Exception, SystemExit) as error:  # the run goes on
        reason = f"{type(error).__name__}: {words_of(error)}"
        answer = f"warning: The question about {visible(str(bundle))} was not answered: {visible(reason)}"
    streams.say(answer)
