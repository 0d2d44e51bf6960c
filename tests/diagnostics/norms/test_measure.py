import math
from itertools import pairwise
from pathlib import Path
from statistics import stdev

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.layers import lasting_layers
from fromage_cli.checkpoints.runs.gathering import gather_series
from fromage_cli.diagnostics.norms.measure import (
    MOST_SIBLINGS,
    LayerTest,
    _around,
    examine_layers,
    measure,
    vectors_left_out,
)
from fromage_cli.diagnostics.norms.result import NO_JUMP, NOT_FINITE, ONE_STEP, STEADY, Channels
from fromage_cli.diagnostics.norms.settings import Settings
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, OPTIMIZER_UNKNOWN, Missing, Why, known
from fromage_cli.optimizers.effective_rate import NO_NORM
from fromage_cli.theory.equilibrium import lars_growth
from fromage_cli.theory.growth import theil_sen
from fromage_cli.theory.scale_invariance import NO_MODEL, Invariance

SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"


def series(tmp_path, *pairs, **others):
    """Checkpoints whose matrix has the given norm at the given step."""
    for step, norm in pairs:
        save_file(
            {"w": torch.full((2, 2), norm / 2, dtype=torch.float64), **others}, tmp_path / f"step-{step}.safetensors"
        )
    return [open_checkpoint(tmp_path / f"step-{step}.safetensors") for step, _ in pairs]


def measured(checkpoints, optimizer=None, rate=None, decay=None):
    names, _ = lasting_layers(checkpoints)
    return measure(checkpoints, names, Settings(optimizer, (rate,) * len(checkpoints), decay))


@pytest.fixture
def growing(tmp_path):
    return series(tmp_path, *((step, 2 * math.exp(step / 1000)) for step in (0, 100, 250, 700)))


def test_exponential_growth_is_found_exactly(growing):
    result = measured(growing)
    (layer,) = result.layers
    assert result.steps == (0, 100, 250, 700)
    assert layer.norms == pytest.approx([2 * math.exp(step / 1000) for step in result.steps])
    assert layer.growth_per_step == pytest.approx(1e-3)
    assert layer.growth_stderr == pytest.approx(0.0, abs=1e-12)
    assert layer.predicted_growth == layer.halved_step == OPTIMIZER_UNKNOWN
    assert layer.dead_bias is layer.kind is None
    assert (layer.invariance.verdict, layer.invariance.cosine) == ("untested", NO_MODEL)
    assert layer.effective_learning_rate == (OPTIMIZER_UNKNOWN,) * 4


def test_how_far_a_norm_has_come(tmp_path):
    checkpoints = series(tmp_path, (0, 3.2), (100, 4.0), (200, 8.0), (400, 22.4))
    (layer,) = measured(checkpoints, "sgd", 0.1).layers
    assert (layer.first_to_last, layer.since_quarter) == pytest.approx((7.0, 5.6))
    assert layer.effective_rate_fall == pytest.approx(49.0) and not layer.unchanged
    assert layer.effective_learning_rate[0] / layer.effective_learning_rate[-1] == pytest.approx(49.0)
    (layer,) = measured(checkpoints, "adamw", 0.1).layers
    assert layer.effective_rate_fall == pytest.approx(7.0)
    (layer,) = measured(checkpoints, "lars", 0.1).layers
    assert layer.effective_rate_fall.code is Why.NOT_DEFINED and measured(checkpoints).layers[
        0
    ].effective_rate_fall == (OPTIMIZER_UNKNOWN)
    (layer,) = measured(checkpoints[:1]).layers
    assert layer.first_to_last == layer.since_quarter == layer.effective_rate_fall == ONE_STEP
    (layer,) = measured(series(tmp_path, (0, 0.0), (1, 1.0))).layers
    assert layer.first_to_last == layer.since_quarter == layer.jump == NO_NORM


def test_a_jump_is_held_against_the_rest_of_the_run_and_against_siblings(tmp_path):
    for step in range(0, 500, 100):
        norms = {f"blocks.{index}.weight": math.exp(1e-3 * step * (1 + 0.1 * index)) for index in range(3)}
        norms["blocks.1.weight"] *= 3.0 if step > 200 else 1.0
        save_file(
            {name: torch.full((2, 2), norm / 2) for name, norm in norms.items()}, tmp_path / f"step-{step}.safetensors"
        )
    found = {
        layer.name: layer.jump for layer in measured([open_checkpoint(p) for p in sorted(tmp_path.iterdir())]).layers
    }
    jump = found["blocks.1.weight"]
    assert (jump.from_step, jump.to_step) == (200, 300)
    assert jump.factor == pytest.approx(3 * math.exp(0.11), rel=1e-6)
    assert jump.excess == pytest.approx(3.0, rel=1e-6)  # over the median of its own other three and of eight more
    assert jump.deviations == pytest.approx(math.log(3.0) / (1.4826 * 0.01), rel=1e-4)
    assert all(abs(math.log(found[f"blocks.{index}.weight"].excess)) < 0.02 for index in (0, 2))
    (layer,) = measured(series(tmp_path / "..", (0, 1.0), (1, 2.0), (2, 2.1))).layers
    assert layer.jump == NO_JUMP  # one other interval tells nothing


def test_a_frozen_layer_is_unchanged_and_one_of_equal_norm_is_not(tmp_path):
    generator = torch.Generator().manual_seed(0)
    frozen, turned = (torch.randn(300, 300, generator=generator) for _ in range(2))
    for step in range(3):
        tensors = {"pad": torch.ones(step + 1), "frozen": frozen, "turned": -turned if step == 2 else turned}
        save_file(tensors, tmp_path / f"step-{step}.safetensors")
    found = {
        layer.name: layer for layer in measured([open_checkpoint(path) for path in sorted(tmp_path.iterdir())]).layers
    }
    assert found["frozen"].unchanged and found["frozen"].growth_per_step == 0.0
    assert len(set(found["frozen"].norms)) == len(set(found["turned"].norms)) == 1 and not found["turned"].unchanged
    assert known(found["frozen"].overflow_step) is None


def test_a_norm_that_wanders_does_not_grow(tmp_path):
    """By Sen's error alone, that of independent noise, it would."""
    logs = (0.0, 0.1, 0.25, 0.2, 0.35, 0.45, 0.3, 0.2, 0.35)
    (layer,) = measured(series(tmp_path, *((10 * index, math.exp(log)) for index, log in enumerate(logs)))).layers
    assert layer.growth_stderr == pytest.approx(stdev(b - a for a, b in pairwise(logs)) / math.sqrt(8) / 10)
    slope, error = theil_sen(range(0, 90, 10), logs)
    assert layer.growth_per_step == pytest.approx(slope) and slope > 2 * error
    assert layer.overflow_step == STEADY


def test_overflow_of_entries_and_squares(growing):
    overflow = measured(growing).layers[0].overflow_step
    assert known(overflow) is not None
    assert overflow.float16.entries == pytest.approx(1000 * math.log(65504))
    assert overflow.float16.squares == pytest.approx(1000 * math.log(math.sqrt(65504) / 2))
    assert overflow.float32.entries == pytest.approx(1000 * math.log(3.4028234663852886e38))
    assert overflow.bfloat16.squares == pytest.approx(1000 * math.log(math.sqrt(3.3895313892515355e38) / 2))


def test_what_has_overflowed_already_is_said_of_the_last_step(tmp_path):
    (layer,) = measured(series(tmp_path, (0, 300.0), (10, 400.0), (20, 500.0))).layers
    assert known(layer.overflow_step) is not None and layer.overflow_step.float16.squares == 20


@pytest.mark.parametrize(("optimizer", "power"), [("sgd", 2), ("adam", 1), ("adamw", 1), ("lion", 1), ("lars", 0)])
def test_effective_rates_and_their_halving(growing, optimizer, power):
    (layer,) = measured(growing, optimizer, 0.1).layers
    assert layer.effective_learning_rate == pytest.approx([0.1 / norm**power for norm in layer.norms])
    assert known(layer.halved_step) == (pytest.approx(1000 * math.log(2) / power) if power else None)


def test_the_rate_of_lars_is_its_relative_step(growing):
    names, _ = lasting_layers(growing)
    settings = Settings("lars", (10.0,) * 4, trust_coefficient=0.001)
    assert measure(growing, names, settings).layers[0].effective_learning_rate == pytest.approx((0.01,) * 4)


def test_the_law_by_optimizer(growing):
    law, lamb = math.log1p(0.02**2) / 2, math.log1p(19 * 0.02**2) / 2  # LAMB's β₁ being .9
    for optimizer, expected in (("lars", law), ("lamb", lamb), ("fromage", 0.0), ("sgd", None), (None, None)):
        assert known(measured(growing, optimizer, 0.02).layers[0].predicted_growth) == pytest.approx(expected)
    assert measured(growing, "lars", 0.02, 0.01).layers[0].predicted_growth == pytest.approx(law - 2e-4)
    assert measured(growing, "lars", None).layers[0].predicted_growth == LEARNING_RATE_UNKNOWN


def test_the_law_with_memory_and_with_a_decay_that_is_rescaled(growing):
    names, _ = lasting_layers(growing)

    def law(*arguments, **settings):
        return measure(growing, names, Settings(*arguments, **settings)).layers[0].predicted_growth

    rates = (0.02,) * 4
    assert law("lars", rates, momentum=0.9) == pytest.approx(math.log1p(0.2**2) / 2)
    assert law("lars", rates, momentum=0.9, trust_coefficient=0.1) == pytest.approx(math.log1p(0.02**2) / 2)
    assert law("lamb", rates, betas=(0.9, 0.999)) == pytest.approx(math.log1p(19 * 0.02**2) / 2)
    assert law("lamb", rates, betas=(0.0, 0.999)) == pytest.approx(math.log1p(0.02**2) / 2)
    for optimizer in ("lars", "lamb"):
        assert law(optimizer, rates, 0.1, coupled=True).code == Why.NO_FORMULA


def law_of(checkpoints, settings):
    names, _ = lasting_layers(checkpoints)
    return measure(checkpoints, names, settings).layers[0].predicted_growth


def test_decay_past_the_gradient_is_not_scaled_by_trust(growing):
    settings = Settings("lars", (10.0,) * 4, 1e-4, 0.9, trust_coefficient=0.001)
    expected = math.log1p(0.1**2) / 2 - 10.0 * 1e-4
    assert law_of(growing, settings) == pytest.approx(expected)
    assert lars_growth(0.01, settings.gains, 10.0 * 1e-4) == pytest.approx(expected, rel=1e-12)


def test_a_rate_that_changes(tmp_path):
    """Falling linearly: ½ E η² − wd E η, whichever steps were kept; simulated with orthogonal steps."""
    steps = (0, 50, 100, 150, 250, 300, 400, 500, 600, 700, 800, 1000)
    checkpoints = series(tmp_path, *((step, 1.0) for step in steps))
    rates = tuple(0.01 * (1 - step / 1000) for step in steps)
    simulated = sum(
        math.log(math.hypot(1 - rate * 0.003, rate)) for rate in (0.01 * (1 - step / 1000) for step in range(1000))
    )
    assert law_of(checkpoints, Settings("lars", rates, 0.003)) == pytest.approx(simulated / 1000, rel=0.1)
    assert simulated / 1000 == pytest.approx(1e-4 / 6 - 0.003 * 0.005, rel=0.05)


def test_dampening_and_nesterov(growing):
    rates = (0.002,) * 4
    assert law_of(growing, Settings("lars", rates, momentum=0.9, dampening=0.5)) == pytest.approx(
        math.log1p(0.01**2) / 2
    )
    assert law_of(growing, Settings("lars", rates, momentum=0.9, dampening=0.5, nesterov=True)) == pytest.approx(
        math.log1p(0.011**2) / 2
    )


def test_no_prediction_without_a_reason(growing):
    def law(*settings):
        return measured(growing, *settings).layers[0].predicted_growth

    assert known(law("lars", 0.02)) is not None and law("lars") == LEARNING_RATE_UNKNOWN
    assert law("adamw", 0.02) == Missing(Why.NO_FORMULA, "the learning rate of adamw is not a relative step")
    assert law() == OPTIMIZER_UNKNOWN


def test_where_the_effective_rate_has_halved(tmp_path):
    pairs = [(0, 1.0), (100, 1.2), (200, 1.6), (300, 1.9)]
    (layer,) = measured(series(tmp_path, *pairs), "sgd", 0.1).layers  # on the way: at ‖W‖ = √2
    share = (math.log(2) / 2 - math.log(1.2)) / (math.log(1.6) - math.log(1.2))
    assert layer.halved_step == pytest.approx(100 + 100 * share)
    (layer,) = measured(series(tmp_path, *pairs), "adamw", 0.1).layers  # later: at ‖W‖ = 2
    assert layer.halved_step == pytest.approx(300 + math.log(2 / 1.9) / layer.growth_per_step)


def test_norms_of_the_rows(tmp_path):
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0], [0.0, 1e-8]])
    save_file({"w": rows, "n": torch.tensor([[1.0, math.nan]])}, tmp_path / "step-1.safetensors")
    result = measured([open_checkpoint(tmp_path / "step-1.safetensors")])
    channels = {layer.name: layer.channels for layer in result.layers}
    assert channels["n"] == NOT_FINITE
    assert channels["w"] == Channels(4, 0.0, pytest.approx(2.5), pytest.approx(10.0), 2)


def test_what_a_model_told_is_taken_over(growing):
    names, _ = lasting_layers(growing)
    tested = {"w": LayerTest("Linear", Invariance("invariant", "tensor", 1e-6, 1e-7, 2e-7), True)}
    (layer,) = measure(growing, names, Settings(None, (None,) * 4), tested).layers
    assert (layer.kind, layer.invariance.granularity, layer.dead_bias) == ("Linear", "tensor", True)


def test_norms_that_shrink_or_have_no_logarithm(tmp_path):
    (layer,) = measured(series(tmp_path, (0, 2.0), (1, 1.0), (2, 0.5)), "sgd", 0.1).layers
    assert layer.growth_per_step == pytest.approx(-math.log(2))
    assert layer.overflow_step == layer.halved_step == STEADY
    (layer,) = measured(series(tmp_path, (0, 0.0), (1, 1.0)), "sgd", 0.1).layers
    assert (layer.growth_per_step, layer.effective_learning_rate) == (NO_NORM, (NO_NORM, pytest.approx(0.1)))
    (layer,) = measured(series(tmp_path, (5, 2.0))).layers
    assert (layer.growth_per_step, layer.growth_stderr, layer.norms) == (ONE_STEP, ONE_STEP, (pytest.approx(2.0),))


@pytest.mark.parametrize(("sample", "optimizer"), [("convnet-lars", "lars"), ("convnet-fromage", "fromage")])
def test_scale_invariant_layers_of_the_samples_follow_the_law(sample, optimizer):
    checkpoints = gather_series([str(SAMPLES / sample)]).checkpoints
    law = math.log1p(0.02**2) / 2 if optimizer == "lars" else 0.0
    for layer in measured(checkpoints, optimizer, 0.02).layers:
        assert layer.predicted_growth == law and known(layer.growth_per_step) is not None
        close = abs(layer.growth_per_step - law) < 0.02 * math.log1p(0.02**2) / 2
        assert close == layer.name.startswith("convolutions")


def test_layers_go_by_their_names_in_the_checkpoint(make_problem, classification):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    calls: list[int] = []
    problem = make_problem(model, classification)
    found = examine_layers(problem, {"net.0.weight": problem.layers[0]}, lambda: calls.append(1))
    assert list(found) == ["net.0.weight"] and len(calls) == 1
    layer = found["net.0.weight"]
    assert (layer.kind, layer.invariance.granularity, layer.dead_bias) == ("Linear", "channel", True)


def test_vectors_that_are_left_out_are_counted(tmp_path):
    (checkpoint,) = series(tmp_path, (0, 1.0), scale=torch.ones(3), bias=torch.zeros(3))
    told = "inspect shows their norms in each checkpoint."
    assert vectors_left_out(checkpoint, (), ()) == (
        f"norms: 2 vectors, such as biases and scales, are left out; {told}",
    )
    assert vectors_left_out(checkpoint, (), ("scale",)) == (
        f"norms: 1 vector, such as biases and scales, is left out; {told}",
    )
    assert vectors_left_out(checkpoint, ("w",), ()) == ()


@pytest.mark.parametrize(("count", "place", "first"), [(10, 4, 0), (200, 0, 0), (200, 100, 68), (200, 199, 135)])
def test_a_layer_is_held_against_those_nearest_to_it(count, place, first):
    names = [f"experts.{index}" for index in range(count)]
    around = _around(names, place)
    assert around == names[first : first + MOST_SIBLINGS + 1] and names[place] in around
