import math

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.distance.measure import measure
from fromage_cli.diagnostics.distance.pairing import pair_tensors
from fromage_cli.missing import Missing, Why, found_of, known


@pytest.fixture
def between(tmp_path):
    def both(first, second, tensors="matrices", steps=(10, 110), **options):
        for name, found, step in zip("ab", (first, second), steps, strict=True):
            metadata = {} if step is None else {"step": str(step)}
            save_file(found, tmp_path / f"{name}.safetensors", metadata=metadata)
        opened = [open_checkpoint(tmp_path / f"{name}.safetensors") for name in "ab"]
        return found_of(measure(*opened, pair_tensors(*opened, tensors, (), ()), **options))[0]

    return both


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_every_number_of_a_layer_against_dense_linear_algebra(between):
    first, second = draw(6, 3, 2, 2), draw(6, 3, 2, 2) + 0.1 * draw(6, 12).reshape(6, 3, 2, 2)
    result = between({"w": first}, {"w": second})
    (layer,) = result.layers
    a, b = first.reshape(6, 12), second.reshape(6, 12)
    assert layer.relative_distance == pytest.approx(float((b - a).norm() / a.norm()))
    assert layer.spectral_distance == pytest.approx(
        float(torch.linalg.matrix_norm(b - a, 2) / torch.linalg.matrix_norm(a, 2))
    )
    assert layer.cosine == pytest.approx(float((a * b).sum() / a.norm() / b.norm()))
    assert layer.angle == pytest.approx(math.acos(layer.cosine))
    for found, matrix in zip(
        (layer.condition_number.first, layer.condition_number.second, layer.condition_number.difference),
        (a, b, b - a),
        strict=True,
    ):
        assert found == pytest.approx(float(torch.linalg.cond(matrix)))
    assert layer.implied_step.straight == pytest.approx((1 + layer.relative_distance) ** 0.01 - 1)
    assert (1 + layer.implied_step.wandering**2) ** -50 == pytest.approx(layer.cosine)
    assert (result.first_step, result.second_step) == (10, 110)


def test_products_in_both_norms(between):
    first = {"a": draw(4, 4), "b": draw(4, 5), "v": draw(4)}
    result = between(first, {name: 1.5 * tensor for name, tensor in first.items()}, tensors="all")
    assert result.product == pytest.approx(1.5**3 - 1)
    assert result.product_spectral == pytest.approx(1.5**3 - 1)
    codes = {layer.name: getattr(layer.spectral_distance, "code", None) for layer in result.layers}
    assert codes == {"a": None, "b": None, "v": Why.NOT_DEFINED}


def test_a_layer_that_did_not_move(between):
    (layer,) = between({"w": draw(3, 3)}, {"w": draw(3, 3)}).layers
    assert (layer.relative_distance, layer.angle, layer.cosine, layer.spectral_distance) == (0.0, 0.0, 1.0, 0.0)
    assert layer.condition_number.difference.code == Why.NOTHING_MOVES
    assert layer.implied_step.straight == layer.implied_step.wandering == 0.0


def test_a_layer_that_was_zero_leaves_no_product(between):
    result = between({"w": torch.zeros(3, 3)}, {"w": draw(3, 3)})
    (layer,) = result.layers
    for missing in (layer.relative_distance, layer.angle, layer.spectral_distance):
        assert missing.code == Why.ZERO_OR_NOT_FINITE
    assert result.product == result.product_spectral == Missing(Why.RESTS_ON_MISSING, "w is zero or not finite")


def test_a_layer_that_is_not_finite(between):
    (layer,) = between({"w": torch.full((2, 2), math.nan)}, {"w": torch.ones(2, 2)}).layers
    for missing in (layer.relative_distance, layer.angle, layer.spectral_distance, *vars(layer.implied_step).values()):
        assert missing.code == Why.ZERO_OR_NOT_FINITE


@pytest.mark.parametrize(
    ("steps", "code", "words"),
    [
        ((None, 3), Why.STEP_UNKNOWN, "the step of the first checkpoint is not known"),
        ((3, 3), Why.NO_STEPS_BETWEEN, "both checkpoints are of step 3"),
    ],
)
def test_steps_that_tell_nothing(between, steps, code, words):
    result = between({"w": draw(3, 3)}, {"w": 2 * draw(3, 3)}, steps=steps)
    implied = result.layers[0].implied_step
    assert implied.straight == implied.wandering == Missing(code, words)


def test_the_order_of_the_steps_does_not_matter(between):
    there, back = (between({"w": draw(3, 3)}, {"w": 2 * draw(3, 3)}, steps=steps) for steps in ((3, 7), (7, 3)))
    assert there.layers[0].implied_step == back.layers[0].implied_step and known(back.layers[0].implied_step.straight)


def test_without_the_spectrum(between):
    result = between({"w": draw(3, 3)}, {"w": 2 * draw(3, 3)}, spectrum=False)
    (layer,) = result.layers
    for missing in (layer.spectral_distance, result.product_spectral, layer.condition_number.first):
        assert missing.code == Why.NOT_ASKED
    assert result.product == pytest.approx(1.0)


def test_large_matrices_have_no_condition_number(between, monkeypatch):
    from fromage_cli.diagnostics.distance import measure as module
    from fromage_cli.theory import spectra

    for place in (module, spectra):
        monkeypatch.setattr(place, "DENSE", 4)
    result = between({"w": draw(6, 6), "v": draw(3, 6)}, {"w": 2 * draw(6, 6), "v": 2 * draw(3, 6)})
    by_name = {layer.name: layer for layer in result.layers}
    assert {missing.code for missing in vars(by_name["w"].condition_number).values()} == {Why.TOO_LARGE}
    assert by_name["w"].spectral_distance == pytest.approx(1.0)
    assert known(by_name["v"].condition_number.first) is not None


def test_progress_and_small_things(between):
    done = []
    between({"w": draw(3, 4)}, {"w": draw(3, 4)}, advance=lambda *told: done.append(told))
    assert done == [(0.0, "w, 1 of 1"), (12 + 12 * 3, "w, 1 of 1")]


def test_without_a_model_the_function_part_is_missing(between):
    result = between({"w": draw(3, 4)}, {"w": draw(3, 4)})
    found = (result.function_distance, result.largest_function_distance, result.log10_bound, result.bound)
    assert [missing.code for missing in found] == [Why.NO_MODEL] * 4
