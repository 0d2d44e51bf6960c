import math

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from fromage_cli.diagnostics.check.attention_findings import HINT, judge_attention
from fromage_cli.findings import Finding
from fromage_cli.probes.forward_pass.attention import AttentionCall, AttentionHead, AttentionWatcher
from fromage_cli.probes.forward_pass.logits import LogitsCall, LogitsWatcher


def call(module: str, *heads: tuple[float, float | None], number: int = 1) -> AttentionCall:
    return AttentionCall(module, number, tuple(AttentionHead(i, *head, 0.5) for i, head in enumerate(heads)))


def judged(*calls: AttentionCall) -> list[tuple[str, str, str | None, float | None]]:
    return [(one.code, one.severity, one.layer, one.value) for one in judge_attention(calls, ())]


def logits(log_z: float) -> LogitsCall:
    return LogitsCall(rows=4, classes=10, log_z_mean=log_z, log_z_spread=1.0, largest_logit=9.0, entropy=1.0)


def test_a_healthy_network_has_no_finding() -> None:
    assert judge_attention((), ()) == ()
    assert (
        judged(call("a", (47.0, 0.02), (9.0, 0.8)), call("b", (100.0, 0.05)), call("c"), call("d", (1.0, None))) == []
    )
    assert judge_attention((), [logits(-50.0), logits(15.0)]) == ()


def test_large_logits_are_told_of_the_worst_layer() -> None:
    calls = call("a", (120.0, 0.5)), call("b", (20.0, 0.9), (300.0, 0.4)), call("b", (400.0, 0.4), number=2), call("c")
    (found,) = judge_attention(calls, ())
    assert (found.code, found.severity, found.layer, found.value) == ("attention-logits-large", "info", "b", 400.0)
    assert found.message == "attention logits reach 400 (above 100 in 2 of 3 layers)"


def test_collapse_is_a_warning_only_beside_large_logits() -> None:
    info = ("attention-entropy-collapsed", "info", "a", 0.03)
    assert judged(call("a", (30.0, 0.03), (20.0, None))) == [info]
    apart = judged(call("a", (30.0, 0.03)), call("b", (200.0, 0.4)))
    assert apart == [("attention-logits-large", "info", "b", 200.0), info]
    together = judge_attention([call("a", (200.0, 0.0), (20.0, 0.0625))], ())
    assert [(one.code, one.severity, one.value) for one in together] == [
        ("attention-logits-large", "info", 200.0),
        ("attention-entropy-collapsed", "warn", 0.03125),
    ]
    assert {one.hint for one in together} == {HINT}


def test_one_head_with_one_key_is_no_collapse() -> None:
    assert judged(call("a", (47.0, 0.0), (9.0, 0.2))) == []


def test_logits_that_have_drifted() -> None:
    for log_z in (-80.0, 80.0):
        (found,) = judge_attention((), [logits(1.0), logits(log_z)])
        assert (found.code, found.severity, found.layer, found.value) == ("logits-drift", "info", None, log_z)


def test_what_is_not_a_number_is_left_to_the_loss() -> None:
    assert judged(call("a", (math.nan, math.nan))) == []
    assert judge_attention((), [logits(math.nan)]) == ()


def test_a_network_with_everything_wrong() -> None:
    x, model = 30.0 * torch.eye(4).expand(1, 1, 4, 4), nn.Identity()
    with AttentionWatcher(model) as attention, LogitsWatcher() as outputs:
        scaled_dot_product_attention(x, x, x)
        cross_entropy(torch.full((2, 3), 90.0), torch.tensor([0, 1]))
    found: tuple[Finding, ...] = judge_attention(attention.calls, outputs.calls)
    assert [(one.code, one.severity) for one in found] == [
        ("attention-logits-large", "info"),
        ("attention-entropy-collapsed", "warn"),
        ("logits-drift", "info"),
    ]
    assert found[0].value == 450.0 and found[0].layer is None
