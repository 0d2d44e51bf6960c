import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.intrinsic_lr.measure import measure
from fromage_cli.diagnostics.intrinsic_lr.prediction import UNCHANGED
from fromage_cli.diagnostics.intrinsic_lr.result import NO_MODEL, Evidence, LayerEvidence
from fromage_cli.diagnostics.intrinsic_lr.settings import Training
from fromage_cli.errors import ResourceError
from fromage_cli.missing import Interrupted, Missing, Why, found_of, known
from fromage_cli.theory.equilibrium import adamw_equilibrium, adamw_norm, momentum_gains, sgd_equilibrium, sgd_norm
from fromage_cli.theory.schedules import Schedule

BETAS = (0.9, 0.95)


@pytest.fixture
def run(tmp_path):
    def measured(weights, training, evidence=None, steps=None, **options):
        checkpoints = []
        for step, weight in zip(steps or range(len(weights)), weights, strict=True):
            path = tmp_path / f"step-{step}.safetensors"
            save_file({"w": weight}, path, metadata={"step": str(step)})
            checkpoints.append(open_checkpoint(path))
        return found_of(measure(checkpoints, ["w"], training, evidence or Evidence(), **options))[0]

    return measured


def adamw(rate=1e-2, decay=0.1, count=1, **more):
    return Training("adamw", betas=BETAS, decoupled=True, rates={"w": (rate,) * count}, decays={"w": decay}, **more)


def test_adamw_needs_nothing_but_its_settings(run):
    weight = torch.randn(30, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = run([weight], adamw(steps_per_epoch=10))
    (layer,) = result.layers
    law, end = adamw_equilibrium(1e-2, 0.1, BETAS), adamw_norm(1e-2, 0.1, 1200)
    assert (layer.equilibrium_norm, layer.relaxation_steps) == (pytest.approx(end), pytest.approx(500.0))
    assert layer.log_ratio == pytest.approx(math.log(float(weight.norm()) / end))
    assert layer.relaxation_epochs == pytest.approx(50.0)
    assert layer.expected_rotation == pytest.approx(law.rotation)
    assert layer.intrinsic_learning_rate == pytest.approx(1e-3)
    assert layer.effective_learning_rate == pytest.approx(1e-2 / float(weight.norm()))
    ratio = float(weight.norm()) / end
    assert layer.steps_to_equilibrium == pytest.approx(500 * math.log((ratio**2 - 1) / (1.1**2 - 1)))
    assert not result.tested and layer.verdict == "untested"
    asked_for = {value.code for value in vars(layer).values() if isinstance(value, Missing)}
    assert asked_for == {Why.NOT_ASKED, Why.NOT_DEFINED, Why.NO_MODEL}


def test_sgd_takes_gradients(run):
    weight = torch.ones(4, 25)
    training = Training("sgd", momentum_gains(0.9), 0.9, rates={"w": (0.1,)}, decays={"w": 1e-3})
    (without,) = run([weight], training).layers
    assert without.equilibrium_norm == without.log_ratio == without.steps_to_equilibrium == NO_MODEL
    assert without.relaxation_steps == pytest.approx(250.0) and known(without.expected_rotation) is not None
    evidence = Evidence({"w": LayerEvidence("Conv2d", "invariant", "channel", (4.0,) * 4, 0.64)}, 64)
    result = run([weight], training, evidence)
    (layer,) = result.layers
    end = 2 * sgd_norm(0.1, 1e-3, momentum_gains(0.9), 4.0)
    assert layer.equilibrium_norm == pytest.approx(end) and layer.log_ratio == pytest.approx(math.log(10 / end))
    assert layer.batch_gradient_norm == pytest.approx(0.8) and result.tested and result.train_batch_size == 64
    assert (layer.kind, layer.verdict, layer.granularity) == ("Conv2d", "invariant", "channel")


def test_without_gradients_the_reason_is_said(run):
    training = Training("sgd", rates={"w": (0.1,)}, decays={"w": 1e-3})
    (layer,) = run([torch.ones(2, 2)], training).layers
    without = {name for name, value in vars(layer).items() if getattr(value, "code", None) == Why.NO_MODEL}
    of_gradients = {"angle_per_step", "batch_gradient_norm", "equilibrium_norm", "forecast"}
    assert without == {*of_gradients, "log_ratio", "steps_to_equilibrium"}
    assert "--model" in layer.log_ratio.words


def test_gradients_that_are_zero_are_not_gradients_that_are_wanting(run):
    training = Training("sgd", rates={"w": (0.1,)}, decays={"w": 1e-3})
    evidence = Evidence({"w": LayerEvidence("Linear", "untested", None, (0.0,), 0.0)}, 16)
    result = run([torch.ones(2, 2)], training, evidence)
    (layer,) = result.layers
    for missing in (layer.equilibrium_norm, layer.log_ratio, layer.steps_to_equilibrium):
        assert missing == Missing(Why.ZERO_OR_NOT_FINITE, "the gradients of the batch are zero")
    assert layer.batch_gradient_norm == 0.0


def test_a_limit_on_the_evidence_leaves_time_to_read_the_weights(tmp_path):
    def refuse():
        raise ResourceError("later")

    save_file({"w": torch.ones(2, 2)}, tmp_path / "c.safetensors")
    limit = Missing(Why.LIMIT_REACHED, "a limit")
    untested = LayerEvidence("Linear", squares=limit, squared_gradient=limit)
    evidence = Interrupted(Evidence({"w": untested}), ResourceError("first"))
    training = Training("sgd", rates={"w": (0.1,)}, decays={"w": 1e-3})
    checkpoints = [open_checkpoint(tmp_path / "c.safetensors")]
    result, stopped = found_of(measure(checkpoints, ["w"], training, evidence, check=refuse))
    assert result.layers[0].norm == 2.0 and stopped is evidence.error
    assert result.layers[0].equilibrium_norm == limit


def test_a_layer_that_is_not_scale_invariant(run):
    evidence = Evidence({"w": LayerEvidence("Linear", "none")})
    result = run([torch.ones(2, 2), torch.full((2, 2), 1.5)], adamw(count=2), evidence, drop=2.0)
    (layer,) = result.layers
    for missing in (layer.expected_rotation, layer.relaxation_steps, layer.drop, layer.equilibrium_norm):
        assert missing.code == Why.NOT_SCALE_INVARIANT
    assert layer.expected_rotations == (layer.expected_rotation,) and layer.intrinsic_learning_rate == pytest.approx(
        1e-3
    )


def test_rotation_between_checkpoints(run):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(20, 20, generator=generator, dtype=torch.float64) for _ in range(3)]
    training = Training("adamw", betas=BETAS, decoupled=True, rates={"w": (1e-2, 1e-2, 5e-3)}, decays={"w": 0.1})
    (layer,) = run(weights, training, steps=(0, 100, 400)).layers
    for index, observed in enumerate(layer.observed_rotations):
        a, b = weights[index], weights[index + 1]
        assert observed == pytest.approx(math.acos(float((a * b).sum() / a.norm() / b.norm())))
    assert layer.observed_rotation == layer.observed_rotations[-1]
    law = adamw_equilibrium(1e-2, 0.1, BETAS)
    assert layer.expected_rotations[0] == pytest.approx(law.rotation_over(100))
    # the mean rate between the last two is .0075; long after the memory cos = exp(-sum of rate x decay)
    assert layer.expected_rotation == pytest.approx(math.acos(math.exp(-0.75e-3 * 300)), rel=0.02)


def test_a_rate_that_was_not_known_before(run):
    training = Training("adamw", betas=BETAS, decoupled=True, rates={"w": (None, 1e-2)}, decays={"w": 0.1})
    result = run([torch.ones(2, 2), torch.eye(2)], training)
    assert result.layers[0].expected_rotation.code == Why.LEARNING_RATE_UNKNOWN
    assert known(result.layers[0].observed_rotation) is not None
    assert reasons(result, "expected_rotation") == ["the learning rate of the checkpoint before is not known, or 0"]


def test_the_course_after_a_drop(run):
    end = adamw_norm(1e-2, 0.1, 100)
    weight = torch.ones(10, 10, dtype=torch.float64) * end / 10
    (layer,) = run([weight], adamw(), drop=10.0).layers
    assert (layer.drop.at_once, layer.drop.final) == (0.1, pytest.approx(1 / math.sqrt(10)))
    assert not layer.drop.from_equilibrium and len(layer.drop.steps) == len(layer.drop.ratios) == 25
    done = ((0.1 / (0.9 / math.sqrt(10))) ** 2 - 0.1) / 0.9  # τ = 500 at the old rate, 5000 at the new
    assert layer.drop.recovery_steps == pytest.approx(-5000.0 * math.log(done))
    left = math.exp(-layer.drop.steps[6] / 5000.0)
    assert layer.drop.ratios[6] == pytest.approx(0.1 / math.sqrt(left + 0.1 * (1 - left)))
    training = Training("sgd", rates={"w": (0.1,)}, decays={"w": 1e-3})
    (unknown,) = run([weight], training, drop=10.0).layers
    assert unknown.drop.from_equilibrium and unknown.drop.ratios[0] == pytest.approx(0.1)


def test_growth_without_decay(run):
    (layer,) = run([torch.ones(5, 5)], adamw(decay=0.0)).layers
    assert layer.growth_per_step == pytest.approx(0.5 * 1e-4)
    assert layer.equilibrium_norm.code == Why.NO_EQUILIBRIUM


def reasons(result, name):
    found = [getattr(layer, name) for layer in result.layers]
    return [one.words for one in found if isinstance(one, Missing) and one.code != Why.NOT_DEFINED]


@pytest.mark.parametrize(
    ("training", "value", "words"),
    [
        (Training("sgd", rates={"w": (0.1,)}, decays={"w": 0.0}), 1.0, "--model"),
        (adamw(decay=0.0), 0.0, "zero or not finite"),
        (Training("lars", rates={"w": (0.1,)}, decays={"w": None}), 1.0, "weight decay is not known"),
        (Training("adam", rates={"w": (0.1,)}, decays={"w": 0.1}), 1.0, "no closed form"),
        (Training("fromage", rates={"w": (0.1,)}, decays={"w": 0.1}), 1.0, "no weight decay of its own"),
    ],
)
def test_growth_that_cannot_be_told_has_its_reason(run, training, value, words):
    result = run([torch.full((2, 2), value)], training)
    assert len(reasons(result, "growth_per_step")) == 1
    assert words in reasons(result, "growth_per_step")[0]


@pytest.mark.parametrize(
    "training", [adamw(), adamw(decay=0.0), Training("fromage", rates={"w": (1.0,)}, decays={"w": None})]
)
def test_growth_that_is_told_or_does_not_exist_has_none(run, training):
    assert reasons(run([torch.ones(2, 2)], training), "growth_per_step") == []


@pytest.mark.parametrize(
    ("training", "value", "words"),
    [
        (adamw(), 0.0, "zero or not finite"),
        (Training("radam", rates={"w": (0.1,)}, decays={"w": 0.1}), 1.0, "not defined for radam"),
        (Training("lars", rates={"w": (0.1,)}, decays={"w": 0.1}, clipped=True), 1.0, "lars with a clipped"),
        (adamw(rate=None), 1.0, "learning rate is not known"),
    ],
)
def test_an_effective_rate_that_is_null_has_its_reason(run, training, value, words):
    result = run([torch.full((2, 2), value)], training)
    (reason,) = reasons(result, "effective_learning_rate")
    assert words in reason


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_norms_that_cannot_be_compared(run, value):
    last = run([torch.ones(2, 2), torch.full((2, 2), value)], adamw(count=2), drop=10.0)
    assert "zero or not finite" in reasons(last, "drop")[0] and len(reasons(last, "observed_rotation")) == 1
    result = run([torch.full((2, 2), value)], adamw())
    assert known(result.layers[0].equilibrium_norm) is not None
    assert "zero or not finite" in reasons(result, "log_ratio")[0]


def test_a_limit_hands_back_what_there_is(tmp_path):
    save_file({"v": torch.ones(2, 2), "w": torch.ones(2, 2)}, tmp_path / "c.safetensors")
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    training = Training("adamw", betas=BETAS, rates=dict.fromkeys("vw", (1e-2,)), decays=dict.fromkeys("vw", 0.1))
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 1:
            raise ResourceError("The time limit was reached.")

    result, stopped = found_of(measure([checkpoint], ["v", "w"], training, Evidence(), check=check))
    assert [layer.name for layer in result.layers] == ["v"] and isinstance(stopped, ResourceError)
    with pytest.raises(ResourceError):
        measure([checkpoint], ["v", "w"], training, Evidence(), check=check)


def test_sgd_rotation_a_step(run):
    training = Training("sgd", momentum_gains(0.9), 0.9, rates={"w": (0.1,) * 2}, decays={"w": 1e-3})
    (layer,) = run([torch.ones(2, 2), torch.full((2, 2), 1.5)], training, steps=(7, 8)).layers
    assert layer.expected_rotation == pytest.approx(sgd_equilibrium(0.1, 1e-3, momentum_gains(0.9)).rotation, rel=1e-3)
    assert layer.observed_rotation == 0.0


def test_entries_that_were_never_updated_are_left_out_of_the_law(run):
    """Half of the inputs are always zero: what they meet only decays, and nothing else is half as large."""
    weight, moments = torch.ones(10, 20), torch.ones(10, 20)
    moments[:, 10:] = 0.0
    training = adamw(slots={"w": {"exp_avg_sq": moments}}, schedule=Schedule("linear", 0, 100), peaks={"w": 1e-2})
    (layer,) = run([weight], training, steps=(50,)).layers
    assert layer.inactive == 100 and layer.norm == pytest.approx(math.sqrt(200.0))
    assert layer.effective_learning_rate == pytest.approx(1e-2 / 10.0)
    assert layer.angle_per_step == pytest.approx(1e-2 * math.sqrt(100 * 0.1 / 1.9) / 10.0)
    rates = [1e-2 * (1 - step / 100) for step in range(50, 100)]
    left = math.exp(-2 * 0.1 * sum(rates))
    grown = sum(rate**2 * 100 * left ** ((50 - index) / 50) for index, rate in enumerate(rates))
    assert layer.forecast.norms[-1] == pytest.approx(math.sqrt(200 * left + grown), rel=1e-3)
    bare = run([weight], adamw()).layers[0]
    assert bare.inactive == 0 and bare.equilibrium_norm == pytest.approx(adamw_norm(1e-2, 0.1, 200))
    halved = run([weight], adamw(slots={"w": {"exp_avg_sq": moments}})).layers[0]
    assert halved.equilibrium_norm == pytest.approx(adamw_norm(1e-2, 0.1, 100))
    assert halved.log_ratio == pytest.approx(math.log(10.0 / halved.equilibrium_norm))


def test_the_rotation_between_checkpoints_follows_the_schedule(run):
    """A walk at a rate that falls to nothing: free diffusion adds up the squares of its angles."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1000, generator=generator, dtype=torch.float64)
    weight *= 20.0 / weight.norm()
    start, steps = weight.clone(), 400
    weight.requires_grad_()
    optimizer = torch.optim.AdamW([weight], lr=0.02, betas=BETAS, weight_decay=0.1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        unit = weight.detach() / weight.detach().norm()
        noise = torch.randn(1000, generator=generator, dtype=torch.float64)
        weight.grad = noise - unit * (unit @ noise)
        optimizer.step()
    training = adamw(schedule=Schedule("linear", 0, steps), count=2, peaks={"w": 0.02})
    training = replace(training, rates={"w": (0.02, 0.0)})
    weights = [start.reshape(20, 50), weight.detach().reshape(20, 50)]
    (layer,) = run(weights, training, steps=(0, steps)).layers
    assert layer.expected_rotation == pytest.approx(layer.observed_rotation, rel=0.05)
    assert layer.expected_norms[-1] == pytest.approx(layer.norm, rel=0.02)
    assert layer.forecast.code == Why.NOT_DEFINED and layer.equilibrium_norm.code == Why.SCHEDULE


def grown(fourth, first, last):
    """‖W‖⁴ after SGD at rate .1 and decay .01 with E‖g̃‖² = t / 500: d‖W‖⁴/dt = −.004 ‖W‖⁴ + .02 t / 500."""
    left = math.exp(-4e-3 * (last - first))
    return fourth * left + 0.01 * ((last - 250.0) - left * (first - 250.0))


def test_a_forecast_goes_on_with_the_trend_of_gradients(run):
    """The squares of gradients grew as the steps do, which three norms tell, with and without a model's own size."""
    fourths = [4.0, grown(4.0, 100, 160), grown(4.0, 100, 200)]
    weights = [torch.full((4, 25), 0.1 * fourth**0.25, dtype=torch.float64) for fourth in fourths]
    training = Training("sgd", rates={"w": (0.1,) * 3}, decays={"w": 0.01}, schedule=Schedule("constant", 0, 1000))
    sizes = (0.25 * math.sqrt(fourths[-1]),) * 4
    evidence = Evidence({"w": LayerEvidence("Conv2d", "invariant", "channel", (9.0,) * 4, 0.64, sizes)}, 64)
    for told in (evidence, Evidence()):
        result = run(weights, training, told, steps=(100, 160, 200))
        ahead = result.layers[0].forecast
        assert result.gradient_trend == pytest.approx(1.0, abs=1e-3)
        expected = [grown(4.0, 100, step) ** 0.25 for step in ahead.steps]
        assert ahead.norms == pytest.approx(expected, rel=2e-3)
        angles = [0.1 * math.sqrt(step / 500) / grown(4.0, 100, step) ** 0.5 for step in ahead.steps]
        assert ahead.norms == pytest.approx(ahead.norms_if_growing, rel=1e-3)
        assert ahead.angles_per_step == pytest.approx(angles, rel=5e-3)
    early = run(weights[1:], replace(training, rates={"w": (0.1,) * 2}), steps=(160, 200))
    assert early.gradient_trend.code == Why.NOT_ASKED
    steady, growing = early.layers[0].forecast.norms[-1], early.layers[0].forecast.norms_if_growing[-1]
    assert steady < 0.8 * expected[-1] and growing == pytest.approx(expected[-1], rel=0.03)


def test_the_way_so_far_has_the_trend_of_the_forecast(run):
    """Batches now tell of gradients far too large, as held-out ones do: norms before the last one know better.

    A fourth norm that the trend does not explain makes the forecast doubtful.
    """
    steps = (100, 140, 170, 200)
    fourths = [4.0, *(grown(4.0, 100, step) for step in steps[1:])]
    training = Training("sgd", rates={"w": (0.1,) * 4}, decays={"w": 0.01}, schedule=Schedule("constant", 0, 1000))
    sizes = (0.25 * math.sqrt(fourths[-1]),) * 4
    evidence = Evidence({"w": LayerEvidence("Conv2d", "invariant", "channel", (9.0,) * 4, 0.64, sizes)}, 64)
    for told in (evidence, Evidence()):
        weights = [torch.full((4, 25), 0.1 * fourth**0.25, dtype=torch.float64) for fourth in fourths]
        (layer,) = run(weights, training, told, steps=steps).layers
        assert layer.expected_norms == pytest.approx([fourth**0.25 for fourth in fourths], rel=2e-3)
        assert layer.norm_ratio == pytest.approx(1.0, rel=2e-3) and not layer.forecast_doubtful
    (layer,) = run([*weights[:3], 1.4 * weights[3]], training, steps=steps).layers
    assert layer.norm_ratio < 0.8 and layer.forecast_doubtful


def test_a_norm_that_adamws_equation_does_not_have_makes_its_forecast_doubtful(run):
    """Gradients that all point one way move a layer by η√N a step, where noise lets it grow as a walk."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 50, generator=generator).requires_grad_()
    optimizer = torch.optim.AdamW([weight], lr=0.01, betas=BETAS, weight_decay=0.1)
    weights = [weight.detach().clone()]
    for _ in range(200):
        weight.grad = -torch.ones(20, 50)
        optimizer.step()
    training = adamw(count=2, schedule=Schedule("constant", 0, 1000))
    (layer,) = run([*weights, weight.detach()], training, steps=(0, 200)).layers
    assert layer.forecast_doubtful and layer.norm_ratio == layer.expected_norms[-1] / layer.norm < 0.8
    once = run([weight.detach()], adamw(schedule=Schedule("constant", 0, 1000)), steps=(200,)).layers[0]
    assert once.norm_ratio.code == Why.NOT_ASKED and not once.forecast_doubtful


@pytest.mark.parametrize("schedule", [None, Schedule("constant", 0, 1000), Schedule("cosine", 0, 1000)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_a_layer_that_is_not_trained_has_no_law(run, optimizer, schedule):
    training = replace(adamw(count=2), optimizer=optimizer, schedule=schedule, decoupled=optimizer == "adamw")
    (layer,) = run([torch.ones(3, 4)] * 2, training, steps=(100, 200), drop=2.0).layers
    laws = (layer.equilibrium_norm, layer.log_ratio, layer.growth_per_step, layer.relaxation_steps, layer.drop)
    ways = (layer.expected_rotation, layer.angle_per_step, layer.forecast, layer.norm_ratio)
    assert layer.unchanged and {*laws, *ways, layer.effective_learning_rate} == {UNCHANGED}
    (moved,) = run([torch.ones(3, 4), -torch.ones(3, 4)], training, steps=(100, 200)).layers
    (alone,) = run([torch.ones(3, 4)], replace(training, rates={"w": (0.1,)}), steps=(200,)).layers
    assert not moved.unchanged and not alone.unchanged


def test_a_layer_that_is_not_trained_tells_no_trend(run, tmp_path):
    """Its norm does not go by the size of gradients."""
    fourths = [4.0, grown(4.0, 100, 160), grown(4.0, 100, 200)]
    checkpoints = []
    for step, fourth in zip((100, 160, 200), fourths, strict=True):
        moved = torch.full((4, 25), 0.1 * fourth**0.25, dtype=torch.float64)
        path = tmp_path / f"step-{step}.safetensors"
        save_file({"w": moved, "frozen": torch.ones(3, 3)}, path, metadata={"step": str(step)})
        checkpoints.append(open_checkpoint(path))
    both = ["w", "frozen"]
    training = Training(
        "sgd",
        rates=dict.fromkeys(both, (0.1,) * 3),
        decays=dict.fromkeys(both, 0.01),
        schedule=Schedule("constant", 0, 1000),
    )
    result = measure(checkpoints, both, training, Evidence())
    assert result.gradient_trend == pytest.approx(1.0, abs=1e-3)
    assert [layer.unchanged for layer in result.layers] == [False, True]


def test_adamw_has_no_trend_of_gradients(run):
    training = adamw(count=3, schedule=Schedule("linear", 0, 1000), peaks={"w": 1e-2})
    result = run([torch.full((4, 4), size) for size in (1.0, 1.1, 1.2)], training, steps=(100, 150, 200))
    assert result.gradient_trend.code == Why.NOT_DEFINED and result.layers[0].forecast.norms_if_growing == ()


def channels(sizes, squares):
    return Evidence({"w": LayerEvidence("Conv2d", "invariant", "channel", squares, 0.64, sizes)}, 64)


@pytest.mark.parametrize("schedule", [Schedule("constant", 0, 1000), Schedule("cosine", 0, 1000)])
def test_a_channel_without_size_is_left_out(run, schedule):
    """The others go on as they would without it."""
    weight = torch.ones(4, 25, dtype=torch.float64)
    weight[0] = 0.0
    training = Training("sgd", rates={"w": (0.1,)}, decays={"w": 0.01}, schedule=schedule, peaks={"w": 0.1})
    (layer,) = run([weight], training, channels((0.0, 25.0, 25.0, 25.0), (0.0, 9.0, 9.0, 9.0)), steps=(100,)).layers
    (bare,) = run([weight[1:]], training, channels((25.0,) * 3, (9.0,) * 3), steps=(100,)).layers
    assert (layer.units_without_size, bare.units_without_size) == (1, 0)
    assert layer.forecast == bare.forecast and layer.angle_per_step == bare.angle_per_step > 0.0
    assert layer.equilibrium_norm == bare.equilibrium_norm


def test_norms_that_come_to_zero_or_without_bound_on_the_way_are_missing(run):
    """Decay takes all of a channel whose gradient is zero; one with a gradient stays."""
    weight, schedule = torch.ones(2, 25, dtype=torch.float64), Schedule("constant", 0, 10000)
    strong = Training("sgd", rates={"w": (0.1,) * 2}, decays={"w": 1.0}, schedule=schedule, peaks={"w": 0.1})
    lars = replace(strong, optimizer="lars", trust=1.0)
    decoupled = replace(lars, decoupled=True, decays={"w": 10.0})
    for training, squares in ((strong, (0.0, 0.0)), (decoupled, (0.0, 0.0))):
        (layer,) = run([2.0 * weight, weight], training, channels((25.0, 25.0), squares), steps=(1, 1000)).layers
        assert layer.forecast.code == Why.ZERO_OR_NOT_FINITE
    (layer,) = run([2.0 * weight, weight], strong, channels((25.0, 25.0), (0.0, 9.0)), steps=(1, 1000)).layers
    assert layer.forecast.norms[-1] == pytest.approx(sgd_norm(0.1, 1.0, momentum_gains(0.0), 9.0), rel=1e-3)
    (layer,) = run([2.0 * weight, weight], lars, channels((25.0, 25.0), (0.0, 0.0)), steps=(1, 1000)).layers
    assert isinstance(layer.forecast, Missing)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion", "lars"])
@pytest.mark.parametrize("value", [0.0, 1e-80, 1e-40, 1e80, 1e150])
def test_no_size_of_weights_ends_in_an_error(run, optimizer, value):
    weights = [torch.full((2, 25), value, dtype=torch.float64), torch.ones(2, 25, dtype=torch.float64)]
    training = (
        adamw(count=2)
        if optimizer == "adamw"
        else Training(
            optimizer, betas=BETAS if optimizer == "lion" else None, rates={"w": (0.1,) * 2}, decays={"w": 1e-3}
        )
    )
    training = replace(training, schedule=Schedule("cosine", 0, 300), peaks={"w": 0.1})
    for pair in (weights, weights[::-1]):
        size = float(pair[-1][0].square().sum())
        for told in (channels((size, size), (9.0, 9.0)), channels((size, size), (0.0, 0.0)), Evidence()):
            (layer,) = run(pair, training, told, steps=(100, 200)).layers
            numbers = (layer.angle_per_step, layer.equilibrium_norm, *layer.expected_norms)
            assert all(isinstance(number, Missing) or math.isfinite(number) for number in numbers)
