"""The envelope: one JSON object of the same shape around every command's answer, and around every error."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fromage_cli import __version__, ranks
from fromage_cli.errors import FromageError
from fromage_cli.findings import Finding, Severity
from fromage_cli.missing import Missing, Why
from fromage_cli.process_memory import peak_device_memory, peak_memory
from fromage_cli.terminal.answer import Answer, CheckpointRecord, ProblemRecord, Provenance
from fromage_cli.terminal.plain import Nonfinite, plain

SCHEMA = "fromage-diag/1"
_SEVERITIES = ("info", "warn", "fail")
NO_DEVICE = Missing(Why.NOT_DEFINED, "no accelerator was used")
WARNINGS, FAILURES = 10, 11
"""Exit codes under `--fail-on`."""
Status = Literal["ok", "warn", "fail", "error"]


@dataclass(frozen=True)
class Tool:
    """The program and what it took; evaluations count in those of the whole batch."""

    version: str
    """That of fromage-diag."""
    torch: str | None
    """The installed version of torch."""
    device: str | None
    """Where it computed: `cpu`, `cuda:0` …"""
    dtype: str | None
    """Type of the weights while computing."""
    seconds: float | None
    """From the start of the command to its answer."""
    gradient_evaluations: float
    """How many gradients were taken; one of a tenth of the rows counts as a tenth."""
    forward_evaluations: float
    """How many forward passes without a gradient, counted likewise."""
    hvp_evaluations: float
    """How many Hessian-vector products, counted likewise."""
    peak_memory: int | None
    """The most main memory held at a time, in bytes; of several processes that of the largest."""
    peak_device_memory: int | Missing
    """The most memory held on accelerators at a time, in bytes."""
    ranks: int
    """How many processes shared the work."""


@dataclass(frozen=True)
class Envelope:
    """What stands around every command's answer."""

    schema: str
    """The version of this form; more keys may come in one version, and none changes its name."""
    command: str | None
    """The command that was run; null where the command line names none."""
    status: Status
    """`error` where there is no answer or a part of it, else the gravest severity of the findings, or `ok`."""
    tool: Tool
    settings: Mapping[str, object]
    """Every flag in effect, in snake case."""
    checkpoints: Sequence[CheckpointRecord]
    """Which checkpoints were read, and how."""
    problem: ProblemRecord | None
    """Which model, loss and batch were measured; null where none were."""
    result: object
    """The answer; null beside an error that left none."""
    findings: Sequence[Finding]
    """What the numbers mean, each with what to do."""


@dataclass(frozen=True)
class ErrorRecord:
    """Why there is no answer, or a part of one."""

    code: str
    """The kind of error, for scripts."""
    message: str
    """What came, and what was expected."""
    hint: str
    """What to do next."""


@dataclass(frozen=True)
class Circumstances:
    """What an envelope says besides the answer: the command, its flags, and how long it took."""

    command: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    seconds: float | None = None
    checkpoints: Sequence[str] = ()
    """What the command line or the configuration names as checkpoints."""

    @property
    def fail_on(self) -> str:
        """`warn`, `fail` or `never`."""
        return str(self.settings.get("fail_on", "never"))


def worst_severity(answer: Answer) -> Severity:
    """`info`, `warn` or `fail`: the worst of the findings."""
    return max((finding.severity for finding in answer.findings), key=_SEVERITIES.index, default="info")


def status(answer: Answer) -> Status:
    """`error` for a partial answer, else the worst severity, `ok` where there is none."""
    if answer.error is not None:
        return "error"
    severity = worst_severity(answer)
    return "ok" if severity == "info" else severity


def exit_code(result: Answer | FromageError, fail_on: str) -> int:
    """That of an error, also of a partial answer's; else 10 for warnings and 11 for failures that `fail_on` counts."""
    error = result.error if isinstance(result, Answer) else result
    if error is not None:
        return error.exit_code
    assert isinstance(result, Answer)
    severity = worst_severity(result)
    counted = {"warn": WARNINGS if fail_on == "warn" else 0, "fail": 0 if fail_on == "never" else FAILURES}
    return max(result.code, counted.get(severity, 0))


def envelope(result: Answer | FromageError, circumstances: Circumstances) -> dict[str, Any]:
    """The whole envelope of an answer, or of the error that stands in its place."""
    if isinstance(result, Answer):
        return answer_envelope(result, circumstances)
    return error_envelope(result, circumstances)


def answer_envelope(answer: Answer, circumstances: Circumstances) -> dict[str, Any]:
    """The whole envelope in JSON's own types; a partial answer's holds its error too."""
    settings = {**circumstances.settings, **answer.settings}
    content = Envelope(
        schema=SCHEMA,
        command=circumstances.command,
        status=status(answer),
        tool=_tool(answer.provenance, circumstances),
        settings=settings,
        checkpoints=answer.checkpoints,
        problem=answer.problem,
        result=answer.result,
        findings=answer.findings,
    )
    return _as_json(content, answer.error)


def error_envelope(error: FromageError, circumstances: Circumstances) -> dict[str, Any]:
    """The same envelope where there is no answer: its keys are there, empty."""
    content = Envelope(
        schema=SCHEMA,
        command=circumstances.command,
        status="error",
        tool=_tool(None, circumstances),
        settings=circumstances.settings,
        checkpoints=(),
        problem=None,
        result=None,
        findings=(),
    )
    return _as_json(content, error)


def _as_json(content: Envelope, error: FromageError | None) -> dict[str, Any]:
    nonfinite: Nonfinite = []
    whole = plain(content, "", nonfinite)
    if error is not None:
        whole["error"] = plain(ErrorRecord(error.code, error.message, error.hint), "error", nonfinite)
    return {**whole, "nonfinite": nonfinite}


def _tool(provenance: Provenance | None, circumstances: Circumstances) -> Tool:
    on_devices = max(peak_device_memory() or 0, provenance.peak_device_memory if provenance else 0)
    return Tool(
        version=__version__,
        torch=torch_version(),
        device=provenance.device if provenance else None,
        dtype=provenance.dtype if provenance else None,
        seconds=circumstances.seconds,
        gradient_evaluations=provenance.gradient_evaluations if provenance else 0.0,
        forward_evaluations=provenance.forward_evaluations if provenance else 0.0,
        hvp_evaluations=provenance.hvp_evaluations if provenance else 0.0,
        peak_memory=max(peak_memory() or 0, provenance.peak_memory if provenance else 0) or None,
        peak_device_memory=on_devices or NO_DEVICE,
        ranks=ranks.current().count,
    )


def torch_version() -> str | None:
    """The installed version of torch, which is not imported to find out."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "__version__"):
        return str(torch.__version__)
    from importlib import metadata

    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def dumps(document: object, indent: int | None = 2) -> str:
    """Strict JSON in ASCII, so that no stream and no control character in a name can break it."""
    return json.dumps(document, allow_nan=False, ensure_ascii=True, indent=indent) + "\n"
