"""An answer in Python: its numbers, and the page of the command in a notebook or as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fromage_cli.terminal.notebook_page import html_page
from fromage_cli.terminal.show import page

if TYPE_CHECKING:
    from fromage_cli.errors import FromageError
    from fromage_cli.findings import Finding
    from fromage_cli.terminal.answer import Answer, Table


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What a question was answered."""

    command: str
    """As it is called in a shell."""
    answer: Answer
    """As the terminal takes it."""

    @property
    def result(self) -> Any:
        """The command's frozen dataclass; its fields are the keys of the JSON."""
        return self.answer.result

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is concluded, each with its number, its limit and the remedy."""
        return self.answer.findings

    @property
    def notes(self) -> tuple[str, ...]:
        """What a shell shows beside the page."""
        return (*self.answer.details, *self.answer.notes)

    @property
    def error(self) -> FromageError | None:
        """The limit that ended the measurement early; None where it is whole."""
        return self.answer.error

    @property
    def tables(self) -> Mapping[str, Table]:
        """The tables of the command by name: columns and rows, as for a data frame."""
        return {name: make() for name, make in self.answer.tables.items()}

    def __str__(self) -> str:
        """The page as plain text."""
        return page(self.answer, None)

    def __repr__(self) -> str:
        """The command, the kind of the result and how much was found."""
        return f"<{self.command}: {type(self.result).__name__}, {len(self.findings)} findings>"

    def _repr_html_(self) -> str:
        return html_page(self.answer)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": html_page(self.answer)}
