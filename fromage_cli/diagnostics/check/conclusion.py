"""From what the commands answered to one verdict: the rules of `check`, then those of the user, then the baseline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fromage_cli.diagnostics.check.baseline import compare
from fromage_cli.diagnostics.check.comparisons import Answered, find_out_of_line
from fromage_cli.diagnostics.check.findings import in_order, judge, verdict_of
from fromage_cli.diagnostics.check.forward_pass import forward_result
from fromage_cli.diagnostics.check.measure import Examination
from fromage_cli.diagnostics.check.result import NO_BASELINE, CheckResult, Comparison
from fromage_cli.diagnostics.check.rules import UserRule, apply
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing


def conclude(
    examination: Examination, rules: Sequence[UserRule], earlier: tuple[Path, Mapping[str, Any]] | None
) -> tuple[CheckResult, tuple[Finding, ...], int]:
    """The result, its findings, and how many findings the user's rules silenced; `earlier`: the baseline and its path.

    Raises UsageError where a rule's quantity is none.
    """
    results = dict(examination.results)
    answered = Answered.of(results)
    odd = find_out_of_line(answered)
    judged = judge(answered, odd, examination.findings)
    ruled = apply(rules, judged, {**results, "check": {"out_of_line": odd}})
    kept = {(one.code, one.layer) for one in ruled}
    silenced = sum((one.code, one.layer) not in kept for one in judged)
    numbers = tuple(examination.numbers)
    compared: Comparison | Missing = NO_BASELINE
    if earlier is not None:
        path, told = earlier
        compared, ruled = compare(told, path, in_order(ruled), numbers)
    findings = in_order(ruled)
    result = CheckResult(
        verdict=verdict_of(findings),
        looked=tuple(examination.answers),
        skipped=tuple(examination.skipped),
        out_of_line=odd,
        numbers=numbers,
        baseline=compared,
        forward_pass=forward_result(results, examination.skipped),
        results=results,
    )
    return result, findings, silenced
