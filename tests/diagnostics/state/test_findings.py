"""What a state means: each finding at its limit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.state.continuity import Links
from fromage_cli.diagnostics.state.findings import APART, counts_agree, is_multiple, judge
from fromage_cli.diagnostics.state.measure import measure
from fromage_cli.diagnostics.state.result import Lost, StateResult, Violations
from fromage_cli.missing import Missing, Why, known

Make = Callable[..., StateResult]
NONE = Missing(Why.NOT_DEFINED, "it has none")


def found(result: StateResult) -> dict[str, Any]:
    return {one.code: one for one in judge(result)}


def test_a_sound_state_has_no_findings(make_state: Make) -> None:
    assert judge(make_state()) == ()


def test_impossible_moments(make_state: Make) -> None:
    for violations, code, severity in (
        (Violations(3, 0, 0, False), "moments-impossible", "warn"),
        (Violations(0, 1, 0, False), "moments-impossible", "warn"),
        (Violations(0, 0, 0, True), "moments-impossible", "warn"),
        (Violations(0, 0, 2, False), "moments-not-finite", "fail"),
    ):
        one = found(make_state(violations=violations))[code]
        assert (one.severity, one.layer) == (severity, "block.1.weight")


def test_counts_of_updates(make_state: Make) -> None:
    result = replace(make_state(), steps_differ=("block.1.weight",))
    assert found(result)["update-counts-differ"].message.startswith(
        "1 tensor counted another number of updates than 40"
    )


def test_the_count_of_updates_beside_the_files_step(make_state: Make) -> None:
    for step, updates in ((40, 40), (40, 41), (41, 40), (1000, 910), (75, 69), (0, 1), (0, 0)):
        assert counts_agree(step, updates)
    for step, updates in ((1000, 879), (1000, 1002), (1000, 0), (0, 2), (470, 300), (200, 50), (30, 15)):
        assert not counts_agree(step, updates)
    for step, updates in ((8000, 1000), (10, 470), (202, 52), (211, 52)):
        assert is_multiple(step, updates)
    for step, updates in ((1000, 0), (470, 300), (1000, 790)):
        assert not is_multiple(step, updates)
    guess = found(replace(make_state(), step=160, counts_updates=False))["update-count-not-the-files"]
    assert guess.severity == "info" and "gradient accumulation" in guess.hint
    assert found(replace(make_state(), step=160))["update-count-not-the-files"].severity == "warn"
    one = found(replace(make_state(), step=3001))["update-count-not-the-files"]
    assert (one.severity, one.value, one.limit) == ("warn", 40.0, 3001.0)
    assert one.message == "the optimizer counts 40 updates, and the file says step 3001"
    for unknown in ({"step": NONE}, {"state_step": NONE}):
        assert judge(replace(make_state(), **{"step": 3001, **unknown})) == ()


def lost(result: StateResult, what: Lost) -> StateResult:
    files = (*result.files[:-1], replace(result.files[-1], lost=what))
    return replace(result, totals=replace(result.totals, lost=what), files=files)


def test_lost_updates(make_state: Make) -> None:
    result = make_state()
    for magnitude, decay, codes in ((0.49, 0.49, set()), (0.51, 0.2, {"updates-lost"}), (0.2, 1.0, {"decay-lost"})):
        assert set(found(lost(result, Lost(0.3, magnitude, 1e-3, decay)))) == codes
    assert judge(lost(result, Lost(NONE, NONE, NONE, NONE))) == ()


def test_where_the_last_rate_is_0_the_file_before_tells_what_rounding_loses(make_state: Make) -> None:
    result = lost(make_state(), Lost(NONE, NONE, NONE, NONE))
    before = replace(result.files[0], path="a/step-30.pt", lost=Lost(0.9, 0.9, 1e-3, 1.0))
    told = found(replace(result, files=(before, *result.files)))
    assert told["updates-lost"].message == "rounding of the 16-bit weights loses 90 % of the last update of step-30.pt"


def shrinking(result: StateResult, shares: Sequence[float]) -> StateResult:
    """Files ten steps apart, in which the rate is so many times that below which most updates are lost."""
    files = [
        replace(result.files[-1], step=10 * place, learning_rate=1e-3, lost=Lost(0.2, 0.2, 1e-3 / share, NONE))
        for place, share in enumerate(shares)
    ]
    return replace(result, files=tuple(files))


def test_updates_that_rounding_will_lose(make_state: Make) -> None:
    halving = found(shrinking(make_state(), [32.0, 16.0, 8.0, 4.0]))["updates-lost-ahead"]
    assert halving.value == pytest.approx(50.0) and "from step 50 on" in halving.message
    for shares in ([4096.0, 2048.0, 1024.0], [4.0, 8.0, 16.0], [4.0] * 4, [4.0, 2.0], [30.0, 4.0, 20.0, 10.0]):
        assert "updates-lost-ahead" not in found(shrinking(make_state(), shares))


def test_the_step_from_which_rounding_loses_updates_is_that_of_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(200, 100).bfloat16())
    optimizer = torch.optim.Adam([weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
    shares = {}
    for step in range(1, 61):
        weight.grad = torch.randn_like(weight)
        optimizer.step()
        if step % 10 == 0:
            state = {"model": {"w": weight.detach()}, "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, tmp_path / f"step-{step}.pt")
            series = [open_checkpoint(tmp_path / f"step-{each}.pt") for each in range(10, step + 1, 10)]
            links = Links.of(series, ["w"])
            assert series[-1].optimizer is not None
            result = measure(links, series[-1].optimizer)
            lost_now = known(result.totals.lost)
            assert lost_now is not None
            shares[step] = known(lost_now.entries) or 0.0
            told = found(result)
            if step == 30:
                predicted = told["updates-lost-ahead"].value
        schedule.step()
    assert predicted is not None
    last = max(step for step, share in shares.items() if share < 0.5)
    assert last - 10 < predicted < last + 20


def test_layers_that_move_far_more_or_less_or_not_at_all(make_state: Make) -> None:
    for factor, code in (
        (1.1 * APART, "layer-moves-more"),
        (0.9 / APART, "layer-moves-less"),
        (0.0, "layer-does-not-move"),
    ):
        assert set(found(make_state(relative_update=0.01 * factor))) == {code}
    assert judge(make_state(relative_update=0.01 * 0.9 * APART)) == ()


def test_eps_and_rows_and_decay(make_state: Make) -> None:
    result = make_state(dead_rows=2)
    assert found(result)["rows-without-gradient"].message.startswith("2 rows never had a gradient, in 1 layer")
    small = replace(result.layers[1].epsilon, entries=0.6)
    assert "eps-decides" in found(make_state(epsilon=small))
    (group,) = result.groups
    fast = replace(make_state(), groups=(replace(group, timescale=100.0),))
    assert "decay-forgets-fast" in found(fast)
    slow = replace(make_state(), groups=(replace(group, timescale=1e5, remaining=0.99),))
    assert "decay-hardly-acts" in found(slow)
    assert judge(replace(make_state(), groups=(replace(group, timescale=NONE, remaining=NONE),))) == ()


def test_groups_whose_rates_are_far_apart(make_state: Make) -> None:
    (group,) = make_state().groups

    def told(*rates: float) -> list[tuple[float | None, float | None]]:
        groups = tuple(replace(group, learning_rate=rate, tensors=9 - place) for place, rate in enumerate(rates))
        result = replace(make_state(), groups=groups)
        return [(one.value, one.limit) for one in judge(result) if one.code == "group-rates-differ"]

    assert told(0.05, 0.4, 0.0) == []
    assert told(0.05, 1.5) == [(pytest.approx(30.0), 10.0)]
    assert told(1.0, 0.01, 2.0) == [(pytest.approx(0.01), 0.1)]
    found_one = found(replace(make_state(), groups=tuple(replace(group, learning_rate=rate) for rate in (0.05, 1.5))))
    assert "trains at 1.5, 30 × the rate of group 0" in found_one["group-rates-differ"].message
