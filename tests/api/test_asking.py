import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli import api, bundle
from fromage_cli.api.asking import shell_words
from fromage_cli.cli import main
from fromage_cli.errors import FromageError, InputError, MismatchError, ResourceError, UsageError
from fromage_cli.terminal.plain import plain

SAMPLE = Path(__file__).parents[2] / "sample_checkpoints" / "mlp-16" / "step-000440.safetensors"
FACTORY = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
"""


def test_a_live_network_gives_what_the_command_gives(
    rows: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FACTORY, encoding="utf-8")
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    torch.save(network.state_dict(), "model.pt")
    np.savez("batch.npz", x=rows["x"].numpy(), y=rows["y"].numpy())
    with pytest.raises(SystemExit):
        main(["breakdown", "model.pt", "--model", "net.py:build", "--batch", "batch.npz", "--json"])
    shell = json.loads(capsys.readouterr().out)["result"]
    live = api.breakdown(network, rows)
    named = api.breakdown("model.pt", "batch.npz", model="net.py:build")
    assert plain(live.result, "", []) == shell == plain(named.result, "", [])
    assert "api.live" not in str(live)
    assert live.notes[-1].startswith("batch: 16 rows")


def test_the_problem_is_the_loss_of_the_network(network: nn.Module, rows: dict[str, Tensor]) -> None:
    found = api.problem(network, rows, nn.CrossEntropyLoss(), mode="eval", dtype=torch.float64)
    exact = network.eval().double()
    loss = functional.cross_entropy(exact(rows["x"].double()), rows["y"])
    loss.backward()
    assert found.base.loss == pytest.approx(loss.item(), rel=1e-12)
    for name, parameter in exact.named_parameters():
        torch.testing.assert_close(found.base.gradients[name], parameter.grad, rtol=1e-10, atol=1e-12)


def test_the_sharpness_of_a_linear_network_is_that_of_its_rows() -> None:
    x = torch.randn(20, 4, dtype=torch.float64)
    rows = {"x": x, "y": torch.randn(20, 1, dtype=torch.float64)}
    report = api.sharpness(
        nn.Linear(4, 1, bias=False), rows, functional.mse_loss, dtype="float64", optimizer="sgd", lr=0.01
    )
    exact = torch.linalg.eigvalsh(2 / 20 * x.T @ x)[-1].item()
    assert report.result.eigenvalues[0].value == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        "cross-entropy",
        functional.cross_entropy,
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(reduction="mean", label_smoothing=0.0),
        lambda model, batch: functional.cross_entropy(model(batch["x"]), batch["y"]),
        lambda model, batch: (functional.cross_entropy(model(batch["x"]), batch["y"], reduction="sum"), 16),
    ],
)
def test_a_loss_may_be_a_name_a_module_or_a_function(network: nn.Module, rows: dict[str, Tensor], loss: Any) -> None:
    found = api.problem(network, rows, loss)
    assert found.base.loss == pytest.approx(api.problem(network, rows).base.loss, rel=1e-6)


def test_the_network_and_the_process_are_left_as_they_were(network: nn.Module, rows: dict[str, Tensor]) -> None:
    calls: list[int] = []
    network[0].register_forward_hook(lambda *_: calls.append(1) and None)
    network[4].eval()
    functional.cross_entropy(network(rows["x"]), rows["y"]).backward()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}  # type: ignore[union-attr]
    hooks = list(network[0]._forward_hooks)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    with torch.inference_mode(), torch.autocast("cpu"):
        under = api.breakdown(network, rows)
        api.sharpness(network, rows, optimizer="sgd", lr=0.1)
        assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")
    assert under.result == api.breakdown(network, rows).result
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad and torch.equal(parameter.grad, gradients[name]), name  # type: ignore[arg-type]
    assert [module.training for module in network] == [True, True, True, True, False]  # type: ignore[attr-defined]
    assert list(network[0]._forward_hooks) == hooks
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]  # type: ignore[index]


def test_a_bundle_gives_what_its_network_gives(network: nn.Module, rows: dict[str, Tensor], tmp_path: Path) -> None:
    place = bundle.save(tmp_path / "bundle", network, rows, "cross-entropy", strict=True)
    assert place is not None
    kept, live = api.breakdown(place).result, api.breakdown(network, rows, "cross-entropy").result
    assert kept.loss == pytest.approx(live.loss, rel=1e-6)
    assert [layer.name for layer in kept.layers] == [layer.name for layer in live.layers]
    assert api.problem(place).base.loss == pytest.approx(live.loss, rel=1e-6)


def test_a_checkpoint_gives_its_weights_to_a_live_network(
    network: nn.Module, rows: dict[str, Tensor], trained: Callable[[int], Path]
) -> None:
    loss = api.problem(network, rows).base.loss
    early = trained(0)
    trained(5)
    assert api.problem(network, rows, checkpoint=early).base.loss == loss
    report = api.sharpness(network, rows, checkpoint=early)  # the optimizer is read from it
    assert report.answer.settings["optimizer"] == "adamw"


def test_each_question_about_checkpoints(
    network: nn.Module, rows: dict[str, Tensor], trained: Callable[[int], Path]
) -> None:
    first, second = trained(3), trained(4)
    floating = [value for value in network.state_dict().values() if value.is_floating_point()]
    assert api.inspect(second).result.totals.parameters == sum(value.numel() for value in floating)
    assert api.state(first, second).result.state_step == 7
    weights = [torch.load(path)["model"]["0.weight"].double() for path in (first, second)]
    moved = {layer.name: layer.relative_distance for layer in api.distance(first, second).result.layers}
    assert moved["0.weight"] == pytest.approx(((weights[1] - weights[0]).norm() / weights[0].norm()).item(), rel=1e-5)
    norms = {layer.name: layer.last_norm for layer in api.norms(first, second).result.layers}
    assert norms["0.weight"] == pytest.approx(weights[1].norm().item(), rel=1e-6)
    assert api.open_checkpoint(second).step == 7
    assert api.intrinsic_lr(first, second).result.optimizer == "adamw"
    checked = api.check(second, model=network, batch=rows)
    assert checked.result.verdict in ("go", "look", "stop") and "api.live" not in str(checked)


def test_held_out_rows_may_be_an_object(network: nn.Module, rows: dict[str, Tensor]) -> None:
    report = api.hypergrad(
        network, rows, "cross-entropy", val_batch=rows, optimizer="sgd", lr=0.1, weight_decay=0.01, method="unroll:2"
    )
    found = api.problem(network, rows, mode="eval").base.loss
    assert report.result.val_loss == pytest.approx(found, rel=1e-5)


def test_the_configuration_and_the_environment_are_not_heard(
    network: nn.Module, rows: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = api.breakdown(network, rows).result.loss
    (tmp_path / "fromage.toml").write_text('ckpt = "other.pt"\nmodel-arg = ["n=1"]\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROMAGE_DIAG_MODE", "eval")
    assert api.breakdown(network, rows).result.loss == loss


def test_a_limit_before_anything_is_measured_is_an_error(network: nn.Module, rows: dict[str, Tensor]) -> None:
    with pytest.raises(ResourceError, match="time limit"):
        api.breakdown(network, rows, time_limit="0.000001s")


def test_the_cost_can_be_asked_for(network: nn.Module, rows: dict[str, Tensor]) -> None:
    assert api.breakdown(network, rows, estimate=True).result.estimate.gradients > 1


def test_options_are_typed_as_a_shell_would_have_them() -> None:
    options = {
        "weight_decay": 0.1,
        "include": ["a*", "b"],
        "betas": (0.9, 0.99),
        "dtype": torch.float64,
        "spectrum": False,
        "estimate": True,
        "device": torch.device("cpu"),
        "optimizer_state": Path("run/state.pt"),
    }
    assert list(shell_words(options, {"include"})) == [
        *("--weight-decay=0.1", "--include=a*", "--include=b", "--betas=0.9,0.99", "--dtype=float64"),
        *("--no-spectrum", "--estimate", "--device=cpu", "--optimizer-state=run/state.pt"),
    ]


def test_lists_reach_the_command(network: nn.Module, rows: dict[str, Tensor]) -> None:
    found = api.breakdown(network, rows, eta=[0.001, 0.01], include=["0.*", "4.*"]).result
    assert list(found.etas) == [0.001, 0.01]
    assert [layer.name for layer in found.layers] == ["0.weight", "4.weight"]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"foo": 1}, UsageError, "There is no option --foo"),
        ({"eta": "x"}, UsageError, "--eta 'x'"),
        ({"mode": "often"}, UsageError, "'often' is not one of"),
        ({"output": "answer.json"}, UsageError, "'output' belongs to the command line"),
        ({"nproc": 2}, UsageError, "'nproc' belongs to the command line"),
        ({"help": True}, UsageError, "'help' belongs to the command line"),
        ({"no_such": False}, UsageError, "There is no option --no-no-such"),
        ({"batch": {"x": torch.ones(0, 3)}}, InputError, "no rows"),
        ({"batch": {"x": torch.ones(4, 7), "y": torch.zeros(4).long()}}, MismatchError, "while calling|shapes"),
        ({"batch": "nowhere.npz"}, InputError, "does not exist"),
        ({"batch": "nowhere.npz", "loss": nn.MSELoss()}, UsageError, "needs the network and the batch as objects"),
        ({"loss": "nothing"}, UsageError, "nothing"),
        ({"checkpoint": "nowhere.pt"}, InputError, "nowhere.pt"),
    ],
)
def test_what_is_refused(
    network: nn.Module, rows: dict[str, Tensor], options: dict[str, Any], kind: type[FromageError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        api.breakdown(network, **{"batch": rows, **options})


def test_two_checkpoints_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="Two checkpoints"):
        api.breakdown(SAMPLE, checkpoint="other.pt")
