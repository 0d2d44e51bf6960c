import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import InputError, MismatchError, UnsafeError, UsageError
from fromage_cli.problem.networks.models import build_model, converted, fresh_model
from fromage_cli.problem.networks.weights import load_weights
from fromage_cli.problem.user_code.declared import Declared

NETWORKS = """
import torch
from torch import nn

class Wide(nn.Linear):
    def __init__(self, width: int = 4, name: str = "") -> None:
        super().__init__(3, width)
        self.name = name
        print("number of parameters: 16")

def fails(width=1):
    raise TypeError("inside")

def gives_a_pair():
    return nn.Linear(1, 1), None

ready = nn.Linear(2, 2)
number = 3
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "networks.py").write_text(NETWORKS)
    return str(tmp_path / "networks.py")


def test_a_factory_is_called_with_arguments_and_a_seed(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, description = build_model(f"{file}:Wide", {"width": 5}, None, Declared())
    again, _ = build_model(f"{file}:Wide", {"width": 5}, None, Declared())
    assert description == f"Wide from {file}:Wide"
    assert isinstance(model, nn.Linear)
    assert isinstance(again, nn.Linear)
    assert model.out_features == 5
    assert torch.equal(model.weight, again.weight)
    assert capsys.readouterr().out == ""


def test_a_module_is_taken_as_it_is(file: str) -> None:
    assert (
        build_model(f"{file}:ready", {}, None, Declared())[0] is build_model(f"{file}:ready", {}, None, Declared())[0]
    )
    with pytest.raises(UsageError, match="takes no --model-arg"):
        build_model(f"{file}:ready", {"width": 1}, None, Declared())


def test_an_installed_module_is_found() -> None:
    model, _ = build_model("torch.nn:Linear", {"in_features": 2, "out_features": 1}, None, Declared())
    assert isinstance(model, nn.Linear)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("Wide", {"widht": 4}, r"unexpected argument 'widht'; the signature is Wide\(width: int = 4"),
        ("fails", {}, r"TypeError while calling --model .*networks.py:12\): inside"),
        ("gives_a_pair", {}, "returned a tuple; expected a torch.nn.Module"),
        ("number", {}, "is a int; expected a factory"),
    ],
)
def test_what_a_factory_gets_wrong_is_said(file: str, name: str, arguments: dict[str, int], words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        build_model(f"{file}:{name}", arguments, None, Declared())


@pytest.mark.parametrize("spec", ["perceptron", "hf-model", "networks.py"])
def test_an_unknown_form_is_refused_with_those_that_exist(spec: str) -> None:
    with pytest.raises(UsageError, match=r"expected auto, hf, a bundle, pkg.module:factory or path/file.py:factory"):
        build_model(spec, {}, None, Declared())


def test_code_that_may_not_run_is_refused(file: str) -> None:
    with pytest.raises(UnsafeError):
        build_model(f"{file}:Wide", {}, None, Declared(), allow_code=False)
    with pytest.raises(InputError):
        build_model("nowhere.py:Wide", {}, None, Declared())


def test_auto_needs_a_checkpoint_and_takes_no_arguments(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No checkpoint"):
        build_model("auto", {}, None, Declared())
    save_file({"fc.weight": torch.ones(2, 3)}, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="--model-arg"):
        build_model("auto", {"width": 1}, open_checkpoint(tmp_path / "m.safetensors"), Declared())


def test_auto_rebuilds_a_perceptron(tmp_path: Path) -> None:
    source = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    save_file(source.state_dict(), tmp_path / "m.safetensors")
    checkpoint = open_checkpoint(tmp_path / "m.safetensors")
    model, description = build_model("auto", {}, checkpoint, Declared(activation="relu"))
    load_weights(model, checkpoint)
    assert description == "perceptron 3-4-2 (2 weight matrices, relu)"
    x = torch.randn(5, 3)
    assert torch.equal(model(x), source(x))


def test_auto_takes_the_factory_that_was_declared_and_trusted(file: str) -> None:
    model, description = build_model("auto", {"width": 2}, None, Declared(model=f"{file}:Wide"))
    assert isinstance(model, nn.Linear)
    assert description.startswith("Wide from")


def test_a_network_is_made_again_with_the_weights_of_its_seed() -> None:
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(3, 2)

    model = fresh_model(build, 5)
    assert model is not None
    assert torch.equal(model.weight, build(5).weight)  # type: ignore[arg-type]


def test_a_rebuilt_perceptron_gets_the_weights_that_torch_draws(tmp_path: Path) -> None:
    source = nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, 2))
    for parameter in source.parameters():
        nn.init.constant_(parameter, 7.0)
    save_file(source.state_dict(), tmp_path / "m.safetensors")
    checkpoint = open_checkpoint(tmp_path / "m.safetensors")
    declared = Declared(activation="relu", norm="batchnorm")
    before = torch.random.get_rng_state()
    models = [fresh_model(lambda _: build_model("auto", {}, checkpoint, declared)[0], seed) for seed in (3, 3, 4)]
    first, again, other = [dict(model.state_dict()) for model in models if model is not None]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert list(first) == list(source.state_dict())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    bound = 300.0**-0.5  # torch's default: uniform between -1 and 1 over the square root of the inputs
    assert 0.99 * bound < first["0.weight"].abs().max() <= bound
    assert float(first["0.weight"].std()) == pytest.approx(bound / 3.0**0.5, rel=0.02)
    assert torch.equal(first["1.weight"], torch.ones(200)) and torch.equal(first["1.running_var"], torch.ones(200))


def test_a_factory_that_draws_no_weights_makes_nothing_again() -> None:
    ready = nn.Linear(2, 2)

    def trained(seed: int) -> nn.Module:
        model = nn.Linear(2, 2)
        model.load_state_dict(ready.state_dict())
        return model

    assert fresh_model(trained, 0) is None
    assert fresh_model(lambda seed: ready, 0) is None
    assert fresh_model(lambda seed: nn.Linear(2, 2, device="meta"), 0) is None


def test_complex_buffers_keep_their_imaginary_parts_in_every_precision() -> None:
    model = nn.Linear(2, 2)
    rotation = torch.polar(torch.ones(3), torch.arange(3.0))
    model.register_buffer("rotation", rotation.clone())
    model.register_buffer("places", torch.arange(3))
    for dtype in (torch.float64, torch.float32):
        found = converted(model, dtype)
        assert (found.weight.dtype, found.rotation.dtype, found.places.dtype) == (
            dtype,
            dtype.to_complex(),
            torch.int64,
        )
        assert torch.equal(found.rotation.to(torch.complex64), rotation)
