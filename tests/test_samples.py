"""The sample checkpoints are what their README says, and make.py writes the same bytes again."""

import importlib.util
import math
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_checkpoints"
PERCEPTRONS = ["mlp-2", "mlp-16", "resmlp-16"]
CONVNETS = ["convnet-lars", "convnet-fromage"]
NAMES = [*PERCEPTRONS, *CONVNETS, "convnet-sgd", "char-gpt"]
CONVOLUTIONS = [f"convolutions.{place}.weight" for place in range(3)]
DECLARED = {
    "mlp-2": {"optimizer": "fromage", "activation": "relu", "residual": False, "learning_rate": 0.01 * 0.9**19},
    "mlp-16": {"optimizer": "fromage", "activation": "relu", "residual": False, "learning_rate": 0.03 * 0.975**79},
    "resmlp-16": {"optimizer": "fromage", "activation": "relu", "residual": True, "learning_rate": 0.01 * 0.9**19},
    "convnet-lars": {"optimizer": "lars", "learning_rate": 0.02},
    "convnet-fromage": {"optimizer": "fromage", "learning_rate": 0.02},
    "convnet-sgd": {"optimizer": "sgd", "learning_rate": 0.05, "train_batch_size": 64},
    "char-gpt": {"optimizer": "adamw", "learning_rate": 0.003, "weight_decay": 0.1, "betas": [0.9, 0.95]},
}


@pytest.fixture(scope="module")
def make():
    """make.py as a module, its folder on the import path while it is loaded, as when it is run."""
    sys.path.insert(0, str(SAMPLES))
    try:
        specification = importlib.util.spec_from_file_location("sample_checkpoints_make", SAMPLES / "make.py")
        module = importlib.util.module_from_spec(specification)
        sys.modules[specification.name] = module
        specification.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(SAMPLES))
        for name in ("sample_checkpoints_make", "models", "recipes", "splits"):
            sys.modules.pop(name, None)


@pytest.fixture
def one_thread():
    """What main() sets for a whole process, undone afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def readme_rows() -> dict[str, list[str]]:
    lines = (SAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows if len(row) == 8}


def stated(row: list[str], column: int) -> list[float]:
    return [float(number) for number in row[column].split("/")]


def steps_of(name: str) -> list[Path]:
    return sorted((SAMPLES / name).glob("step-*"))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)["model"]


def trained(make, name: str) -> torch.nn.Module:
    model = make.RECIPES[name].model()
    model.load_state_dict(weights(steps_of(name)[-1]), strict=True)
    return model


def growth(name: str, tensor: str) -> list[tuple[int, float]]:
    """(step, ln ‖W_t‖/‖W_0‖) of every checkpoint but the first."""
    norms = [weights(path)[tensor].double().norm().item() for path in steps_of(name)]
    steps = [int(path.stem.removeprefix("step-")) for path in steps_of(name)]
    return [(step, math.log(norm / norms[0])) for step, norm in zip(steps[1:], norms[1:], strict=True)]


def test_every_recipe_is_in_the_readme_and_on_disk(make):
    assert list(make.RECIPES) == NAMES
    assert list(readme_rows()) == NAMES


def test_samples_stay_below_eight_megabytes():
    kept = (".md", ".pt", ".py", ".safetensors", ".toml", ".txt")  # and no interpreter's or tool's cache
    files = [path for path in SAMPLES.rglob("*") if path.suffix in kept]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert max(path.stat().st_size for path in files) < 1.2e6


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_carry_their_step(make, name):
    steps = []
    for path in steps_of(name):
        if path.suffix == ".pt":
            steps.append(torch.load(path, weights_only=True)["step"])
        else:
            with safe_open(path, framework="pt") as checkpoint:
                steps.append(int(checkpoint.metadata()["step"]))
        assert path.stem == f"step-{steps[-1]:06d}"
    assert tuple(steps) == make.RECIPES[name].checkpoints
    assert [str(step) for step in steps] == readme_rows()[name][5].split(", ")


@pytest.mark.parametrize("name", [*PERCEPTRONS, *CONVNETS, "convnet-sgd"])
def test_batch_holds_512_training_rows(make, name):
    shape = (512, 64) if name in PERCEPTRONS else (512, 1, 8, 8)
    batch = load_file(SAMPLES / name / "batch.safetensors")
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()} == {
        "x": (torch.float32, shape),
        "y": (torch.int64, (512,)),
    }
    x, y = make.RECIPES["mlp-2"].split().train
    assert torch.equal(batch["y"], y[:512])
    torch.testing.assert_close(batch["x"].view(512, 64), x[:512], rtol=1e-6, atol=1e-6)


def test_character_batch_is_held_out_text_each_target_the_next_character():
    text = (SAMPLES / "text" / "coriolanus.txt").read_text(encoding="ascii")
    batch = load_file(SAMPLES / "char-gpt" / "batch.safetensors")
    assert all(value.dtype == torch.int64 and value.shape == (64, 64) for value in batch.values())
    characters = sorted(set(text))
    decoded = {key: "".join(characters[code] for code in value.flatten()) for key, value in batch.items()}
    start = len(text) - len(text) // 10
    assert decoded == {"x": text[start : start + 4096], "y": text[start + 1 : start + 4097]}
    assert len(characters) == 61


def test_held_out_rows_are_a_fifth_and_not_trained_on(make):
    split = make.RECIPES["mlp-2"].split()
    (x, y), (x_held_out, y_held_out) = split.train, split.held_out
    assert (len(y), len(y_held_out)) == (1438, 359)
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std().item() == pytest.approx(1, abs=1e-5)
    rows = {row.numpy().tobytes() for row in x}
    assert not any(row.numpy().tobytes() in rows for row in x_held_out)


def test_held_out_sequences_share_none_with_those_trained_on(make):
    split = make.RECIPES["char-gpt"].split()
    assert (len(split.train[0]), len(split.held_out[0])) == (1403, 155)
    rows = {row.numpy().tobytes() for row in split.train[0]}
    assert not any(row.numpy().tobytes() in rows for row in split.held_out[0])


@pytest.mark.parametrize("name", NAMES)
def test_declaration_is_data_about_the_run(make, name):
    declared = tomllib.loads((SAMPLES / name / "fromage.toml").read_text(encoding="utf-8"))
    steps_per_epoch = 43 if name == "char-gpt" else 22
    fixed = {"loss": "cross-entropy", "batch": "batch.safetensors", "steps_per_epoch": steps_per_epoch}
    learning_rate = pytest.approx(DECLARED[name]["learning_rate"])
    assert declared == fixed | DECLARED[name] | {"learning_rate": learning_rate}
    assert make.RECIPES[name].checkpoints[-1] == make.RECIPES[name].epochs * steps_per_epoch
    if name in PERCEPTRONS:
        assert make.RECIPES[name].model().residual == declared["residual"]


@pytest.mark.parametrize("name", [*PERCEPTRONS, *CONVNETS, "convnet-sgd"])
def test_initialisation_is_the_recipe_s(make, name):
    torch.manual_seed(make.RECIPES[name].seed)
    stored = weights(steps_of(name)[0])
    for key, value in make.RECIPES[name].model().state_dict().items():
        torch.testing.assert_close(stored[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_last_checkpoint_reaches_the_stated_loss_and_accuracy(make, name):
    split, row = make.RECIPES[name].split(), readme_rows()[name]
    reached = [make.evaluate(trained(make, name), rows) for rows in (split.train, split.held_out)]
    assert [loss for loss, _ in reached] == pytest.approx(stated(row, 6), abs=6e-4)
    assert [accuracy for _, accuracy in reached] == pytest.approx(stated(row, 7), abs=6e-4)
    assert reached[1][1] > (0.45 if name == "char-gpt" else 0.9)


@pytest.mark.parametrize(("name", "loss"), [("convnet-lars", 0.006), ("convnet-fromage", 0.011), ("char-gpt", 1.712)])
def test_loss_on_the_batch_is_the_stated_one(make, name, loss):
    """With the batch's own statistics, as the tool takes them."""
    batch = load_file(SAMPLES / name / "batch.safetensors")
    reached = make.mean_loss(trained(make, name).train(), (batch["x"], batch["y"])).item()
    assert reached == pytest.approx(loss, abs=6e-4)
    assert str(loss) in (SAMPLES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("tensor", CONVOLUTIONS)
def test_convolutions_before_batchnorm_grow_under_lars_as_the_law_says(tensor):
    """‖W_t‖ = ‖W_0‖(1+η²)^{t/2}, for the gradient is orthogonal to W."""
    for step, logarithm in growth("convnet-lars", tensor):
        assert logarithm == pytest.approx(step / 2 * math.log1p(0.02**2), rel=0.02)
    assert math.exp(logarithm) == pytest.approx(1.811, abs=1e-3)


@pytest.mark.parametrize("name", CONVNETS)
def test_the_output_layer_does_not_follow_the_law(name):
    for step, logarithm in growth(name, "output.weight"):
        assert logarithm > 2 * step / 2 * math.log1p(0.02**2)


@pytest.mark.parametrize("tensor", CONVOLUTIONS)
def test_fromage_keeps_the_norm_of_convolutions_before_batchnorm(tensor):
    for _, logarithm in growth("convnet-fromage", tensor):
        assert logarithm == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("name", CONVNETS)
def test_stated_growth_is_measured(name):
    lines = (SAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for tensor in (*CONVOLUTIONS, "output.weight"):
        (row,) = [row for row in rows if row[0].startswith(f"`{tensor}`")]
        measured = math.exp(growth(name, tensor)[-1][1])
        assert float(row[1 + CONVNETS.index(name)]) == pytest.approx(measured, abs=6e-4)


def test_both_convnets_start_from_the_same_weights():
    lars, fromage = (weights(steps_of(name)[0]) for name in CONVNETS)
    assert lars.keys() == fromage.keys()
    assert all(torch.equal(lars[key], fromage[key]) for key in lars)


def test_running_statistics_are_stored():
    last = weights(steps_of("convnet-lars")[-1])
    for place in range(3):
        assert last[f"norms.{place}.num_batches_tracked"].item() == 2970
        assert (last[f"norms.{place}.running_var"] > 0).all()


def test_optimizer_state_continues_the_run(make):
    """AdamW takes the state, group by group: matrices decay, vectors do not, the tied matrix is known once."""
    model = trained(make, "char-gpt")
    optimizer = make.RECIPES["char-gpt"].optimizer(model)
    optimizer.load_state_dict(torch.load(steps_of("char-gpt")[-1], weights_only=True)["optimizer"])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all(group["lr"] == 0.003 and group["betas"] == (0.9, 0.95) for group in optimizer.param_groups)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters())) == 28
    for parameter, state in optimizer.state.items():
        assert state["step"].item() == 860
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape
    assert model.output.weight is model.token.weight


def test_weight_decay_has_settled_the_norms_of_convolutions_before_batchnorm():
    """SGD's relaxation time is (1 − momentum)/(4 η λ) = 1000 steps: nearly three lie between first and last."""
    files = sorted((SAMPLES / "convnet-sgd").iterdir())
    assert sum(file.stat().st_size for file in files) < 300e3
    first, before, last = [weights(steps_of("convnet-sgd")[place]) for place in (0, -2, -1)]
    for name in CONVOLUTIONS:
        assert last[name].norm().item() == pytest.approx(before[name].norm().item(), rel=0.05)
        assert last[name].norm() > 1.9 * first[name].norm()


def test_the_state_of_sgd_is_kept(make):
    """From the first step on a momentum buffer of each parameter; the rate of the first step before it."""
    for path in steps_of("convnet-sgd"):
        kept = torch.load(path, weights_only=True)
        (group,) = kept["optimizer"]["param_groups"]
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.05, 0.9, 5e-4)
        assert len(kept["optimizer"]["state"]) == (len(group["params"]) if kept["step"] else 0)


def test_warm_up_is_linear_and_the_rate_constant_after_it(make):
    recipe = make.RECIPES["char-gpt"]
    assert [make.rate(recipe, step) for step in (1, 50, 100, 101, 860)] == pytest.approx(
        [0.00003, 0.0015, 0.003, 0.003, 0.003]
    )


def test_a_character_s_logits_depend_on_no_later_one(make):
    model, x = trained(make, "char-gpt").eval(), torch.arange(61).repeat(2, 1)
    x[1, 40:] = 0
    first, second = model(x)
    torch.testing.assert_close(first[:40], second[:40])
    assert not torch.allclose(first[40:], second[40:])


def test_dropout_is_an_argument(make):
    torch.manual_seed(0)
    model, x = make.RECIPES["char-gpt"].model(dropout=0.5), torch.arange(61)[None]
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("name", [*CONVNETS, "convnet-sgd", "char-gpt"])
def test_making_a_shortened_sample_twice_writes_the_same_bytes(make, one_thread, tmp_path, name):
    (x, y), (x_held_out, y_held_out) = make.RECIPES[name].split().train, make.RECIPES[name].split().held_out
    few = type(make.RECIPES[name].split())((x[:192], y[:192]), (x_held_out[:64], y_held_out[:64]))
    recipe = replace(make.RECIPES[name], epochs=1, checkpoints=(0, 1, 3), split=lambda: few)
    rows = [make.make(name, recipe, tmp_path / run) for run in ("one", "two")]
    written = [{path.name: path.read_bytes() for path in (tmp_path / run / name).iterdir()} for run in ("one", "two")]
    assert written[0] == written[1]
    assert len(written[0]) == 5
    assert rows[0] == rows[1]


def test_making_a_sample_in_a_fresh_process_writes_the_same_bytes(make, one_thread, tmp_path, capsys):
    """Once in this process and once in a fresh one; the row printed is the README's, up to another CPU's rounding."""
    make.main(["mlp-2", "--output", str(tmp_path / "here")])
    row = [cell.strip() for cell in capsys.readouterr().out.strip().strip("|").split("|")]
    subprocess.run(
        [sys.executable, SAMPLES / "make.py", "mlp-2", "--output", tmp_path / "fresh"],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    written = {path.name: path.read_bytes() for path in (tmp_path / "here" / "mlp-2").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "fresh" / "mlp-2").iterdir()}
    assert set(written) == {path.name for path in (SAMPLES / "mlp-2").iterdir()}
    assert row[:6] == readme_rows()["mlp-2"][:6]
    assert stated(row, 6) == pytest.approx(stated(readme_rows()["mlp-2"], 6), abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_settings_in_the_readme_are_the_recipe_s(make, name):
    recipe, row = make.RECIPES[name], readme_rows()[name]
    optimizer = type(recipe.optimizer(recipe.model())).__name__
    assert row[1:5] == [
        recipe.what,
        f"{optimizer}, {make.schedule(recipe)}",
        str(recipe.batch_size),
        str(recipe.epochs),
    ]


def test_an_unknown_sample_is_named_with_those_there_are(make, capsys):
    with pytest.raises(SystemExit):
        make.main(["mlp-3"])
    message = capsys.readouterr().err
    assert "mlp-3" in message
    assert all(name in message for name in NAMES)
