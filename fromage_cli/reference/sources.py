"""What the package's own source says: fields with the line below each, members of enumerations, constants.

It is read and not imported: at run time the lines below fields are gone, and some results need torch.
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Member:
    """A field of a class, or a member of an enumeration."""

    name: str
    type: ast.expr | None
    """As it is annotated; None for a member of an enumeration."""
    value: ast.expr | None
    """Its default, or the member's value."""
    words: str
    """The text below it, paragraphs apart; empty where there is none."""


@dataclass(frozen=True)
class Definition:
    """Where a name of the package is defined, and as what."""

    module: str
    """Dotted, without the package's own name."""
    name: str
    node: ast.ClassDef | ast.expr
    """A class, or what a name stands for."""

    @property
    def words(self) -> str:
        """The docstring of a class."""
        return unwrapped(ast.get_docstring(self.node) or "") if isinstance(self.node, ast.ClassDef) else ""

    @property
    def bases(self) -> tuple[str, ...]:
        """Names of the classes that a class is derived from."""
        return tuple(ast.unparse(base) for base in getattr(self.node, "bases", ()))

    @property
    def members(self) -> Iterator[Member]:
        """The fields of a class or the members of an enumeration, in their order."""
        body = self.node.body if isinstance(self.node, ast.ClassDef) else []
        for node, below in zip(body, [*body[1:], None], strict=False):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    words = unwrapped(text)
                case _:
                    words = ""
            if isinstance(node, ast.AnnAssign):
                yield Member(ast.unparse(node.target), node.annotation, node.value, words)
            elif isinstance(node, ast.Assign):
                yield Member(ast.unparse(node.targets[0]), None, node.value, words)


@cache
def parsed(module: str) -> ast.Module:
    """The source of a module of the package, by its dotted name without the package's own."""
    path = PACKAGE.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def definition(module: str, name: str) -> Definition | None:
    """Where a name that a module uses is defined; None where that is not in this package."""
    body = parsed(module).body
    seen_by_types = [inner for node in body if isinstance(node, ast.If) for inner in node.body]
    for node in (*body, *seen_by_types):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Definition(module, name, node)
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == name for target in node.targets):
            return Definition(module, name, node.value)
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name and node.value is not None:
            return Definition(module, name, node.value)
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            package, _, rest = (node.module or "").partition(".")
            return definition(rest, name) if package == PACKAGE.name and rest else None
    return None


def constant(module: str, name: str) -> object:
    """The value of a constant that is written out as a literal; raises ValueError for any other."""
    for node in parsed(module).body:
        if not isinstance(node, ast.Assign):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            names = [ast.unparse(one) for one in target.elts]
            if name in names:
                return ast.literal_eval(node.value.elts[names.index(name)])
        if ast.unparse(target) == name:
            return ast.literal_eval(node.value)
    raise ValueError(f"{module} has no constant {name}")


def unwrapped(text: str) -> str:
    """A docstring with each paragraph on one line."""
    return "\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))
