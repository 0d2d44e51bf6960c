"""How the tool speaks: short sentences in everyday words, in what it prints and in what its public things say."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fromage_cli"

LONGEST = 20
"""Words in a sentence."""
NOBODYS_WORDS = (
    r"eps-limited",
    r"gives? way",
    r"bears?|borne|bearable",
    r"spare[sd]?",
    r"for want of",
    r"wide of",
    r"(is|are) silent",
    r"on the whole",
    r"another question",
    r"goes without saying",
    r"left aside|leaves? \w+ aside",
    r"felt|feels?",
)
"""Words of the old dialect that need decoding wherever they stand."""
WORDS_OF_THE_THEORY = (
    r"certif\w+",
    r"certain",
    r"trust (η|eta)",
    r"crossings?",
    r"limit of (the|its) (next )?step",
    r"rates? at (the )?limit",
    r"laws?",
    r"walks?",
    r"dead",
)
"""Words that a docstring may define and use; a page says what they mean."""
END = re.compile(r"(?<=[.!?:;])[\"'”’)]*\s+|\n+")
"""A sentence ends at its mark before a space, or with its line; a point within a number or a name ends none."""
NAME = re.compile(r"`[^`]*`|\*[A-Z][^*]*\*")
"""Code, and the title of a paper, which is a name of one word."""
HAS_LETTERS = re.compile(r"[^\W_]")


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of the package by its path in it."""
    paths = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def spoken(tree: ast.Module) -> Iterator[str]:
    """Every text of a module that a person may read: no docstring, no pattern, no list of names to split, no key."""
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            silent |= {id(part) for part in node.values}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if ast.unparse(node.func.value) == "re":
                silent |= {id(part) for part in ast.walk(node)}
            if node.func.attr == "split":
                silent.add(id(node.func.value))
        if isinstance(node, ast.Dict | ast.Compare):
            keys = node.keys if isinstance(node, ast.Dict) else [node.left, *node.comparators]
            silent |= {id(key) for key in keys if isinstance(key, ast.Constant) and " " not in str(key.value)}
    for node in ast.walk(tree):
        if id(node) not in silent:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)  # type: ignore[misc]


def public_docstrings(tree: ast.Module) -> Iterator[str]:
    """What a module, its public classes and functions, and the fields of both say of themselves, a paragraph a line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and getattr(node, "name", "")[:1] != "_":
            for each in node.body[:1] if isinstance(node, ast.FunctionDef) else node.body:
                if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
                    prose = NAME.sub("X", str(each.value.value))
                    yield "\n".join(" ".join(part.split()) for part in prose.split("\n\n"))


def faults(text: str, words: tuple[str, ...]) -> list[str]:
    """Its sentences that are too long, and what it has of these words."""
    long = [each for each in END.split(text) if len([w for w in each.split() if HAS_LETTERS.search(w)]) > LONGEST]
    old = re.compile(rf"(?<![\w-])(?:{'|'.join(words)})(?![\w-])", re.IGNORECASE)
    return [*long, *(found.group() for found in old.finditer(text))]


def is_key(text: str, name: str) -> bool:
    """Whether a text is a single word that no page shows, such as a key of the JSON."""
    return " " not in text.strip() and not name.endswith("/render.py")


def said(name: str) -> list[str]:
    """The faults in what a module prints."""
    texts = [text for text in spoken(trees()[name]) if not is_key(text, name)]
    return [fault for text in texts for fault in faults(text, (*NOBODYS_WORDS, *WORDS_OF_THE_THEORY))]


def documented(name: str) -> list[str]:
    """The faults in what a module and its public things say of themselves."""
    texts = public_docstrings(trees()[name])
    return [fault for text in texts for fault in faults(text, NOBODYS_WORDS)]


def test_what_is_printed_is_short_and_plain() -> None:
    assert {name: each for name in trees() if (each := said(name))} == {}


def test_what_public_things_say_of_themselves_is_short_and_plain() -> None:
    assert {name: each for name in trees() if (each := documented(name))} == {}


def test_no_sentence_names_a_key_of_the_json() -> None:
    """Those of several words: a key of a single one is a word as well."""
    results = [tree for name, tree in trees().items() if name.endswith("/result.py")]
    fields = [node.target for tree in results for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)]
    keys = "|".join({field.id for field in fields if isinstance(field, ast.Name) and "_" in field.id})
    named = re.compile(rf"(?<![\w,.-])(?:{keys})(?![\w=])")
    for name, tree in trees().items():
        for text in spoken(tree):
            assert is_key(text, "") or not named.search(text), (name, text)


@pytest.mark.parametrize(
    "text",
    [
        "the crossing of layers.0",
        "No size is certified.",
        " ".join(["word"] * 21),
        "Short. " + " ".join(["word"] * 21) + " 3.5 fromage.toml",
    ],
)
def test_a_fault_is_recognised(text: str) -> None:
    assert faults(text, (*NOBODYS_WORDS, *WORDS_OF_THE_THEORY))


@pytest.mark.parametrize("text", ["trust_eta", "--trust", "the lawn", "One. " * 40, "one: " + " ".join(["word"] * 20)])
def test_plain_words_are_no_fault(text: str) -> None:
    assert not faults(text, (*NOBODYS_WORDS, *WORDS_OF_THE_THEORY))
