"""Networks that keep state, drift, draw or differentiate their input, in every command: right values, or none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fromage_cli.cli import main

NETWORKS = """
import torch
from torch import nn
from torch.nn import functional

class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.i, self.r, self.o = nn.Linear(4, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)
        self.h = None

    def forward(self, x):
        y, h = self.r(torch.tanh(self.i(x)), self.h)
        self.h = tuple(part.detach() for part in h)
        return self.o(y).transpose(1, 2)

class Force(nn.Module):
    def __init__(self):
        super().__init__()
        self.n = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))

    def forward(self, x):
        x = x.detach().requires_grad_()
        return -torch.autograd.grad(self.n(x).sum(), x, create_graph=True)[0]

CALLS = [0]

class Late(nn.Sequential):
    def forward(self, x):
        CALLS[0] += 1
        return super().forward(x) * (1.1 if CALLS[0] > 5 else 1.0)

def made(network):
    torch.manual_seed(1)
    CALLS[0] = 0
    return network()

stateful, force, pinn = (lambda network=network: made(network) for network in (
    Stateful, Force, lambda: nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))))

def late():
    return made(lambda: Late(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))

def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))

def sequences():
    return {"x": drawn(4, 5, 4), "y": torch.arange(20).reshape(4, 5) % 3}

def atoms():
    return {"x": drawn(16, 4), "y": -drawn(16, 4)}

def classes():
    return {"x": drawn(16, 4), "y": torch.arange(16) % 3}

def points():
    return {"x": torch.linspace(0, 1, 16)[:, None]}

def residual(model, batch):
    x = batch["x"].requires_grad_()
    u = model(x)
    return ((torch.autograd.grad(u.sum(), x, create_graph=True)[0] + u) ** 2).mean()
"""
COMMANDS = {
    "breakdown": ["--eta", "1e-3:1:3"],
    "suggest-lr": ["--optimizer", "adam", "--lr", "1e-3", "--probe", "none"],
    "sharpness": ["--optimizer", "sgd", "--lr", "1e-2"],
    "norms": [],
    "intrinsic-lr": ["--optimizer", "sgd", "--lr", "0.1", "--weight-decay", "1e-4"],
    "distance": [],
}
Ask = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Calls a command on a network of NETWORKS: exit code, envelope and standard error."""
    (tmp_path / "networks.py").write_text(NETWORKS)

    def call(command: str, model: str, batch: str, loss: str = "") -> tuple[int, dict[str, Any], str]:
        network = load(model)()
        torch.save(network.state_dict(), tmp_path / "a.pt")
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.25)
        torch.save(network.state_dict(), tmp_path / "b.pt")
        files = [str(tmp_path / name) for name in ("a.pt", "b.pt")][: 1 + (command == "distance")]
        named = ["--model", f"{tmp_path}/networks.py:{model}", "--batch", f"{tmp_path}/networks.py:{batch}"]
        named += ["--loss", f"{tmp_path}/networks.py:{loss}"] if loss else []
        with pytest.raises(SystemExit) as ended:
            main([command, *files, *named, *COMMANDS[command], "--json"])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(captured.out), captured.err

    return call


def load(name: str) -> Callable[..., Any]:
    namespace: dict[str, Any] = {"__name__": "networks"}
    exec(NETWORKS, namespace)
    found: Callable[..., Any] = namespace[name]
    return found


def outputs(model: str, batch: str, factor: float = 1.0, only: str = "") -> torch.Tensor:
    """What plain torch gives on the first call, with parameters of some name times a factor."""
    network = load(model)()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.mul_(factor if name.startswith(only) else 1.0)
    found: torch.Tensor = network(load(batch)()["x"]).detach()
    return found


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((second - first).norm() / first.norm())


def test_a_network_that_keeps_its_state_in_attributes(ask: Ask) -> None:
    first = outputs("stateful", "sequences")
    layer = ask("norms", "stateful", "sequences")[1]["result"]["layers"][0]
    assert layer["name"] == "i.weight"
    double = apart(first, outputs("stateful", "sequences", 2.0, "i.weight"))
    assert layer["invariance"]["response_double"] == pytest.approx(double, rel=1e-4)
    distance = ask("distance", "stateful", "sequences")[1]["result"]
    assert distance["function_distance"] == pytest.approx(
        apart(first, outputs("stateful", "sequences", 1.25)), rel=1e-5
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_where_the_model_or_the_loss_differentiates_its_input(ask: Ask, command: str) -> None:
    for named in (("force", "atoms"), ("pinn", "points", "residual")):
        code, found, err = ask(command, *named)
        assert code == 0, err
        assert found["status"] in ("ok", "warn")


def test_forces_are_compared_as_functions(ask: Ask) -> None:
    expected = apart(outputs("force", "atoms"), outputs("force", "atoms", 1.25))
    distance = ask("distance", "force", "atoms")[1]["result"]
    assert distance["function_distance"] == pytest.approx(expected, rel=1e-5)


def test_the_sharpness_of_a_loss_that_differentiates_its_input(ask: Ask) -> None:
    network, x = load("pinn")(), load("points")()["x"]
    weights = dict(network.named_parameters())

    def loss(flat: torch.Tensor) -> torch.Tensor:
        sizes = [weight.numel() for weight in weights.values()]
        parts = [part.view(w.shape) for part, w in zip(flat.split(sizes), weights.values(), strict=True)]
        named = dict(zip(weights, parts, strict=True))
        points = x.clone().requires_grad_()
        u = torch.func.functional_call(network, named, points)
        return ((torch.autograd.grad(u.sum(), points, create_graph=True)[0] + u) ** 2).mean()

    flat = torch.cat([weight.detach().flatten() for weight in weights.values()])
    curvature = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[-1]
    found = ask("sharpness", "pinn", "points", "residual")[1]["result"]
    assert found["eigenvalues"][0]["value"] == pytest.approx(float(curvature), rel=1e-3)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_network_that_drifts_while_it_is_measured_gets_no_numbers(ask: Ask, command: str) -> None:
    code, found, err = ask(command, "late", "classes")
    assert code == 5 and found["result"] is None
    assert "differs between two calls" in err
