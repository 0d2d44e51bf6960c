"""From answers to one page of HTML that needs no network, no script and no other file."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from markupsafe import Markup

from fromage_cli import __version__
from fromage_cli.counting import counted
from fromage_cli.diagnostics.check.findings import sentence
from fromage_cli.diagnostics.check.result import Verdict
from fromage_cli.findings import Finding, Severity, gravest_remedy
from fromage_cli.reference.explanations import explanations
from fromage_cli.report.gathered import Gathered
from fromage_cli.report.opening import DIGITS, MARK, Envelope, packed, rounded
from fromage_cli.report.sections import sections
from fromage_cli.report.told import at, entries_at, text_at
from fromage_cli.terminal.words import visible

MOST_FINDINGS = 200
"""Findings of a page; the saved numbers hold all."""
SEVERITY_WORDS = {"fail": "Failure", "warn": "Warning", "info": "For information"}
VERDICT_OF: dict[Severity, Verdict] = {"fail": "stop", "warn": "look", "info": "go"}
"""By the gravest finding."""
MORE_TIME = "Give more time: raise --time-limit, or leave it out. --estimate tells how long it takes."


@dataclass(frozen=True)
class Summary:
    """What a page begins with."""

    verdict: str
    """In one sentence."""
    kind: str
    """`go`, `look` or `stop`: how it is drawn."""
    remedy: str
    """What to do now; empty where nothing is said."""
    unseen: tuple[str, ...] = ()
    """What was not looked at, and which answers ended early; whole sentences."""


def html_page(answers: Sequence[Envelope]) -> str:
    """The page of these answers; the same answers give the same page."""
    from jinja2 import Environment

    answers = rounded(answers)
    gathered = Gathered(answers)
    own = resources.files("fromage_cli.report")
    style, script, template = (own.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js", "html.j2"))
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    groups = grouped(gathered.findings[:MOST_FINDINGS])
    return environment.from_string(template).render(
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        title=title_of(gathered),
        summary=summary_of(gathered),
        findings=groups,
        explained={
            group[0].code: told
            for group in groups
            if (told := explanations().get(group[0].code)) is not None and told.kind == "finding"
        },
        more_findings=counted(max(0, len(gathered.findings) - MOST_FINDINGS), "more finding"),
        findings_left=len(gathered.findings) > MOST_FINDINGS,
        severities=SEVERITY_WORDS,
        sections=sections(gathered),
        numbers=Markup(f"{MARK}{packed(answers)}"),
        digits=DIGITS,
        version=__version__,
    )


def title_of(gathered: Gathered) -> str:
    """The run: the last two names of the path of its last checkpoint."""
    places = [one.place for one in gathered.answered if one.place]
    if not places and not gathered.answered:
        return "no answer"
    return "/".join(places[-1].rstrip("/").split("/")[-2:]) if places else "a network"


def summary_of(gathered: Gathered) -> Summary:
    """The verdict of `check` where it was asked, else that of the gravest finding; and the remedy of the gravest."""
    told, findings = gathered.last("check"), gathered.findings
    failed = [one for one in gathered.answers if at(one, "error") is not None]
    ended = [
        f"{text_at(one, 'command')} {'could not run' if at(one, 'result') is None else 'ended early'}: "
        f"{text_at(one, 'error', 'message')}"
        for one in failed
    ]
    skipped = entries_at(told, "skipped")
    reasons = dict.fromkeys(text_at(one, "reason") for one in skipped)
    unseen = (*ended, *(f"Not looked: {_commands(skipped, reason)}. {reason}" for reason in reasons))
    if len(gathered.runs) > 1:
        unseen += (f"These answers are about several runs: {', '.join(gathered.runs)}.",)
        unseen += (f"Sections show {gathered.runs[gathered.shown_run]} where it has answers.",)
    hint = next((words for one in failed if (words := text_at(one, "error", "hint"))), "")
    worst: Severity = next((one.severity for one in findings), "info")
    kind = VERDICT_OF[worst]
    if worst != "info":
        return Summary(sentence(kind, findings, 0), kind, gravest_remedy(findings), unseen)
    if failed and not gathered.answered:
        commands = ", ".join(dict.fromkeys(text_at(one, "command") for one in failed))
        words = f"No answer: {commands} could not run. {text_at(failed[0], 'error', 'message')}"
        return Summary(words, "look", hint, unseen[1:])
    late = [one for one in skipped if one.get("limited") is True]
    looked = at(told, "looked")
    asked = len(looked) if isinstance(looked, list) else 0
    if 2 * len(late) >= asked + len(skipped) > 0 and late:
        words = f"No verdict: {len(late)} of {asked + len(skipped)} commands did not look."
        return Summary(words, "look", hint or MORE_TIME, unseen)
    words = sentence("go", findings, asked) if text_at(told, "verdict") == "go" else nothing_wrong(gathered)
    return Summary(words, kind, hint if failed else MORE_TIME if late else "Train on.", unseen)


def nothing_wrong(gathered: Gathered) -> str:
    """Of saved answers without a warning, how many there are and of which commands."""
    told = [text_at(one, "command") for one in gathered.answers if at(one, "result") is not None]
    return f"Nothing wrong in {counted(len(told), 'answer')}: {', '.join(dict.fromkeys(told))}."


def _commands(skipped: Sequence[Mapping[str, Any]], reason: str) -> str:
    """Those that were skipped for this reason."""
    return ", ".join(text_at(one, "command") for one in skipped if text_at(one, "reason") == reason)


def grouped(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Those of the same kind and remedy together, in the order of the first of each."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.code, finding.severity, finding.hint), []).append(finding)
    return [*groups.values()]


def _hash(text: str) -> str:
    """As a content policy names the style or script that it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
