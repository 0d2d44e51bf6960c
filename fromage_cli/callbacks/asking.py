"""A question about a bundle that a callback has just written."""

import warnings
from collections.abc import Callable
from pathlib import Path

from fromage_cli.errors import words_of
from fromage_cli.terminal import streams


def ask_about(bundle: Path | None, question: Callable[[Path], object] | None) -> None:
    """Show on standard error what a question is answered about a bundle; whatever fails is a warning.

    Does nothing without a question, and where no bundle was written by this process.
    """
    if bundle is None or question is None:
        return
    try:
        answer = str(question(bundle))
    except Exception as error:  # the run goes on
        warnings.warn(f"The question about {bundle} was not answered: {words_of(error)}", stacklevel=3)
        return
    streams.say(answer)
