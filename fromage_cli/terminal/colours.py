"""Whether a stream gets colours: by `--color`, by NO_COLOR, and by what reads it."""

from typing import TYPE_CHECKING, TextIO

from fromage_cli.terminal import session, streams

if TYPE_CHECKING:
    from rich.console import Console


def console_on(stream: TextIO | None, paper: TextIO, width: int) -> "Console":
    """A console that writes on `paper` what is meant for the stream, with its colours.

    `--color always` goes before NO_COLOR, and before a stream that is no terminal.
    """
    from rich.console import Console

    wish, terminal = session.current().output.color, streams.is_terminal(stream)
    coloured = wish == "always" or (wish == "auto" and terminal)
    return Console(
        file=paper,
        width=width,
        force_terminal=terminal or wish == "always",
        force_jupyter=False,  # else rich shows in a notebook what is meant for the paper
        color_system=None if not coloured else "standard" if wish == "always" else "auto",
        no_color=False if wish == "always" else None,
        markup=False,
        highlight=False,
        emoji=False,
    )
