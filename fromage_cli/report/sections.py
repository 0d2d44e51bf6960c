"""The sections of a page, each from what the commands answered; one without an answer is left out."""

from collections.abc import Callable

from fromage_cli.report.gathered import Gathered
from fromage_cli.report.gradient_section import gradients
from fromage_cli.report.norm_section import equilibrium
from fromage_cli.report.parts import Section
from fromage_cli.report.rate_sections import curvature, learning_rate
from fromage_cli.report.run_maps import along_the_run
from fromage_cli.report.table_sections import attention, distance, numbers, optimizer_state, regularisation

MAKERS: tuple[Callable[[Gathered], Section | None], ...] = (
    *(learning_rate, gradients, along_the_run, equilibrium, optimizer_state, attention),
    *(curvature, regularisation, distance, numbers),
)
"""In the order in which one reads them."""


def sections(gathered: Gathered) -> list[Section]:
    """All sections for which there is an answer, in the order in which one reads them."""
    found = [make(gathered) for make in MAKERS]
    return [one for one in found if one is not None and (one.figures or one.sheets or one.sentences)]
