"""The page of `bundle info`: what the bundle can be used for, what is in it."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.bundle.contents import BundleContents
from fromage_cli.counting import counted
from fromage_cli.missing import known
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.page import Fact, facts
from fromage_cli.terminal.tables import prose
from fromage_cli.terminal.words import in_bytes, number, visible


def render(contents: BundleContents, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    return Group(prose(_sentence(contents), style), Text(""), facts(list(_facts(contents)), style))


def _sentence(contents: BundleContents) -> str:
    """The answer: which commands can use it, and what they need beside it."""
    if contents.modes:
        return "Every command runs from this bundle alone. It is data, and needs no code of yours."
    return f"This bundle has no graph of the network, so commands need --model. Its class: {visible(contents.factory)}."


def _facts(contents: BundleContents) -> Iterator[Fact]:
    yield Fact("Network", visible(contents.network), f"modes: {', '.join(contents.modes) or 'none'}")
    shown = [f"{visible(each.name)} {each.dtype}{list(each.shape[1:])}" for each in contents.batch[:3]]
    more = len(contents.batch) - len(shown)
    yield Fact("Batch", counted(contents.rows, "row"), ", ".join(shown) + (f" and {more} more" if more else ""))
    losses = ", ".join(f"{number(each.saved)} in {each.mode}" for each in contents.losses)
    yield Fact("Loss", visible(contents.loss), losses)
    yield Fact("Optimizer", visible(known(contents.optimizer) or "none"), "")
    total, intact = sum(file.bytes for file in contents.files), all(file.intact for file in contents.files)
    yield Fact("Files", in_bytes(total), counted(len(contents.files), "file") + ", all as written" * intact)
    versions = ", ".join(f"{visible(name)} {visible(version)}" for name, version in contents.written_by.items())
    yield Fact("Written by", "", versions)
