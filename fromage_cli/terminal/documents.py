"""Documents that other programs read: JSON, annotations of GitHub, JUnit's XML, metrics of Prometheus.

An error is part of a document, or is told by one that stands in the answer's place.
"""

from collections.abc import Callable, Sequence

from fromage_cli.errors import FromageError, UsageError
from fromage_cli.terminal.answer import Answer, EstimateResult
from fromage_cli.terminal.envelope import Circumstances, dumps, envelope
from fromage_cli.terminal.github import annotations
from fromage_cli.terminal.junit import test_report
from fromage_cli.terminal.prometheus import metrics

Results = Sequence[Answer | FromageError]


def json_document(results: Results, circumstances: Circumstances) -> str:
    """The envelope of a single result, an array of several."""
    envelopes = [envelope(result, circumstances) for result in results]
    return dumps(envelopes[0] if len(envelopes) == 1 else envelopes)


def json_lines(results: Results, circumstances: Circumstances) -> str:
    """An envelope a line."""
    return "".join(dumps(envelope(result, circumstances), indent=None) for result in results)


DOCUMENTS: dict[str, Callable[[Results, Circumstances], str]] = {
    "json": json_document,
    "jsonl": json_lines,
    "github": annotations,
    "junit": test_report,
    "prom": metrics,
}
"""By format."""


def document(format: str, results: Results, circumstances: Circumstances) -> str:
    """The results in that format; raises UsageError for an estimate, of which JSON alone tells."""
    estimates = [result for result in results if isinstance(getattr(result, "result", None), EstimateResult)]
    if estimates and format not in ("json", "jsonl"):
        raise UsageError(f"--format {format} tells findings, and --estimate looks for none.", "Add --format json.")
    return DOCUMENTS[format](results, circumstances)
