"""What the attention and the logits of a forward pass say of a run."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fromage_cli.counting import counted
from fromage_cli.findings import Finding

if TYPE_CHECKING:
    from fromage_cli.probes.forward_pass.attention import AttentionCall
    from fromage_cli.probes.forward_pass.logits import LogitsCall

LARGE = 100.0
"""Attention logits of healthy small runs reach 25, of four published models 47. Kimi K2 is clipped at 100
(arXiv 2507.20534); training became unstable near 10000 (arXiv 2309.14322)."""
COLLAPSED = 0.05
"""Mean entropy over the heads of one call, as a share of its maximum: 0.23 or more in all of these."""
DRIFTED = 50.0
"""|log Z| of healthy small runs reaches 15, of three published models 11. From 32 on bfloat16 steps by 0.25."""
HINT = "Lower the learning rate or warm it up for longer. QK-norm, or clipping of q·k, bounds the logits."

SINKS = "Usual where most rows attend to the first token. Beside large logits it would tell of too large steps."


def judge_attention(calls: Sequence["AttentionCall"], logits: Sequence["LogitsCall"]) -> tuple[Finding, ...]:
    """Attention whose logits are large, or whose rows have one key left in nearly every head; log Z far from 0."""
    findings = []
    largest = {call: max(head.largest_logit for head in call.heads) for call in calls if call.heads}
    large = {call: size for call, size in largest.items() if size > LARGE}
    if large:
        worst = max(large, key=lambda call: large[call])
        findings.append(
            Finding(
                code="attention-logits-large",
                severity="info",
                layer=worst.module or None,
                message=f"attention logits reach {large[worst]:.3g} (above {LARGE:g} in {_layers(large, calls)})",
                value=large[worst],
                limit=LARGE,
                hint=HINT,
            )
        )
    shares = {call: [one.entropy_share for one in call.heads if one.entropy_share is not None] for call in calls}
    means = {call: sum(each) / len(each) for call, each in shares.items() if each}
    collapsed = {call: mean for call, mean in means.items() if mean < COLLAPSED}
    if collapsed:
        grave = bool(collapsed.keys() & large.keys())
        worst = min(collapsed, key=lambda call: collapsed[call])
        findings.append(
            Finding(
                code="attention-entropy-collapsed",
                severity="warn" if grave else "info",
                layer=worst.module or None,
                message=f"nearly every row of attention has one key left: its entropy is {collapsed[worst]:.2g} of "
                f"the largest possible (below {COLLAPSED:g} in {_layers(collapsed, calls)})",
                value=collapsed[worst],
                limit=COLLAPSED,
                hint=HINT if grave else SINKS,
            )
        )
    furthest = max((call.log_z_mean for call in logits), key=abs, default=0.0)
    if abs(furthest) > DRIFTED:
        findings.append(
            Finding(
                code="logits-drift",
                severity="info",
                message=f"log Z of the outputs is {furthest:.3g} on average, far from 0",
                value=furthest,
                limit=DRIFTED,
                hint="Keep the loss in float32. A penalty on (log Z)², the z-loss, holds it near 0.",
            )
        )
    return tuple(findings)


def _layers(some: Iterable["AttentionCall"], calls: Iterable["AttentionCall"]) -> str:
    """How many of the modules with attention these calls are of."""
    return f"{len({call.module for call in some})} of {counted(len({call.module for call in calls}), 'layer')}"
