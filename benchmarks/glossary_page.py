"""Writes docs/glossary.md from the terms that `fromage-diag explain` knows."""

from itertools import groupby
from pathlib import Path

from fromage_cli.reference.explanations import texts

PAGE = Path(__file__).resolve().parents[1] / "docs" / "glossary.md"
OPENING = """# Glossary

The words that pages, messages, names in the code and this documentation use. Each has one meaning.
`fromage-diag explain WORD` adds the formula, what it assumes, its source and a worked number ([explain](explain.md)).
"""


def glossary() -> str:
    """The page: a table of words and meanings for each group."""
    parts = [OPENING]
    for group, topics in groupby(texts("topics").values(), key=lambda topic: topic["group"]):
        rows = "".join(f"| {topic['word']} | {topic['is']} |\n" for topic in topics)
        parts.append(f"## {group}\n\n| word | meaning |\n|---|---|\n{rows}")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(glossary(), encoding="utf-8")
