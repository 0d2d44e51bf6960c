"""The sample checkpoints are what their README says, and make.py writes the same bytes again."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

pytest.importorskip("sklearn")

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_checkpoints"
NAMES = ["mlp-2", "mlp-16", "resmlp-16"]


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
        for name in ("sample_checkpoints_make", "models"):
            sys.modules.pop(name, None)


@pytest.fixture
def one_thread():
    """What main() sets for a whole process, undone afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def readme_rows() -> dict[str, list[str]]:
    lines = (SAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows}


def stated(row: list[str], column: int) -> list[float]:
    return [float(number) for number in row[column].split("/")]


def test_every_recipe_is_in_the_readme_and_on_disk(make):
    assert list(make.RECIPES) == NAMES
    assert list(readme_rows()) == NAMES


def test_samples_stay_below_two_mebibytes():
    sizes = [path.stat().st_size for name in NAMES for path in (SAMPLES / name).iterdir()]
    assert sum(sizes) < 2 * 2**20


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_carry_their_step(make, name):
    steps = []
    for path in sorted((SAMPLES / name).glob("step-*.safetensors")):
        with safe_open(path, framework="pt") as checkpoint:
            assert path.name == f"step-{int(checkpoint.metadata()['step']):06d}.safetensors"
            steps.append(int(checkpoint.metadata()["step"]))
    assert tuple(steps) == make.RECIPES[name].checkpoints
    assert [str(step) for step in steps] == readme_rows()[name][5].split(", ")


@pytest.mark.parametrize("name", NAMES)
def test_batch_holds_512_training_rows(make, name):
    batch = load_file(SAMPLES / name / "batch.safetensors")
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()} == {
        "x": (torch.float32, (512, 64)),
        "y": (torch.int64, (512,)),
    }
    x, y = make.digits().train
    assert torch.equal(batch["y"], y[:512])
    torch.testing.assert_close(batch["x"], x[:512], rtol=1e-6, atol=1e-6)


def test_held_out_rows_are_a_fifth_and_not_trained_on(make):
    (x, y), (x_held_out, y_held_out) = make.digits().train, make.digits().held_out
    assert (len(y), len(y_held_out)) == (1438, 359)
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std().item() == pytest.approx(1, abs=1e-5)
    trained = {row.numpy().tobytes() for row in x}
    assert not any(row.numpy().tobytes() in trained for row in x_held_out)


@pytest.mark.parametrize("name", NAMES)
def test_declaration_is_data_about_the_network(make, name):
    declared = tomllib.loads((SAMPLES / name / "fromage.toml").read_text(encoding="utf-8"))
    recipe = make.RECIPES[name]
    assert declared == {
        "activation": "relu",
        "residual": name.startswith("res"),
        "loss": "cross-entropy",
        "batch": "batch.safetensors",
        "learning_rate": pytest.approx(recipe.learning_rate * recipe.decay ** (recipe.epochs - 1)),
        "steps_per_epoch": 22,
    }
    assert recipe.model().residual == declared["residual"]
    assert recipe.checkpoints[-1] == recipe.epochs * declared["steps_per_epoch"]


@pytest.mark.parametrize("name", NAMES)
def test_initialisation_is_the_recipe_s(make, name):
    torch.manual_seed(make.RECIPES[name].seed)
    stored = load_file(SAMPLES / name / "step-000000.safetensors")
    for key, value in make.RECIPES[name].model().state_dict().items():
        torch.testing.assert_close(stored[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_last_checkpoint_reaches_the_stated_loss_and_accuracy(make, name):
    recipe, row = make.RECIPES[name], readme_rows()[name]
    model = recipe.model()
    final = sorted((SAMPLES / name).glob("step-*.safetensors"))[-1]
    model.load_state_dict(load_file(final), strict=True)
    reached = [make.evaluate(model, rows) for rows in (recipe.split().train, recipe.split().held_out)]
    assert [loss for loss, _ in reached] == pytest.approx(stated(row, 6), abs=6e-4)
    assert [accuracy for _, accuracy in reached] == pytest.approx(stated(row, 7), abs=6e-4)
    assert reached[1][1] > 0.9


def test_making_a_sample_twice_writes_the_same_bytes(make, one_thread, tmp_path, capsys):
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


def test_an_unknown_sample_is_named_with_those_there_are(make, capsys):
    with pytest.raises(SystemExit):
        make.main(["mlp-3"])
    message = capsys.readouterr().err
    assert "mlp-3" in message
    assert all(name in message for name in NAMES)
