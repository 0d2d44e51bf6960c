"""The loss of a bundle: a named one by its name, the user's own as a part of the graph."""

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli import bundle
from fromage_cli.checkpoints.formats.bundle import Bundle, read_bundle
from fromage_cli.errors import InputError, MismatchError
from fromage_cli.problem.graphs.reading import bundled_batch, bundled_network
from fromage_cli.problem.losses.bundled import bundled_loss
from fromage_cli.problem.losses.losses import resolve_loss

Rows = dict[str, Tensor]


class Own(nn.Module):
    """Returns its loss beside its output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.layer(x)
        return {"logits": logits} | ({"loss": functional.cross_entropy(logits, labels)} if labels is not None else {})


def rows(targets: Tensor | None = None) -> Rows:
    y = torch.tensor([0, 1, 2, 0, 1, 2]) if targets is None else targets
    return {"x": torch.linspace(-1, 1, 24).view(6, 4).sin(), "y": y}


def smoothed(model: nn.Module, batch: Rows, *, smoothing: float) -> Tensor:
    return functional.cross_entropy(model(batch["x"]), batch["y"], label_smoothing=smoothing)


def summed(model: nn.Module, batch: Rows) -> tuple[Tensor, Tensor]:
    each = functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
    return each.sum(), torch.ones_like(each).sum()


def saved(
    place: Path, loss: Any, batch: Rows | None = None, model: nn.Module | None = None
) -> tuple[nn.Module, Bundle]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3)) if model is None else model
    bundle.save(place, model, rows() if batch is None else batch, loss, strict=True)
    return model, read_bundle(place)


def value_of(found: Bundle, model: nn.Module) -> tuple[str, float]:
    """The name of the loss, and its value at the weights of the live network."""
    network, _ = bundled_network(found)
    network.to_empty(device="cpu").load_state_dict(model.state_dict())
    batch = bundled_batch(found)
    name, loss = bundled_loss(found, network)
    loss_ = loss or resolve_loss(name, network, batch)
    terms = loss_(network.eval(), batch)
    return loss_.name, float(terms.total.detach()) / terms.count


FLOATS = torch.linspace(0, 1, 18).view(6, 3)
NAMED: list[tuple[Any, str, Tensor | None]] = [
    ("cross-entropy", "cross-entropy", None),
    (nn.CrossEntropyLoss(), "cross-entropy", None),
    (functional.cross_entropy, "cross-entropy", None),
    ("auto", "cross-entropy", None),
    ("mse", "mse", FLOATS),
    (nn.MSELoss(), "mse", FLOATS),
    (functional.mse_loss, "mse", FLOATS),
    ("bce", "bce", FLOATS.round()),
    (nn.BCEWithLogitsLoss(), "bce", FLOATS.round()),
]


@pytest.mark.parametrize(("loss", "name", "targets"), NAMED, ids=lambda each: str(each)[:24])
def test_a_loss_that_has_a_name_is_kept_by_it(tmp_path: Path, loss: Any, name: str, targets: Tensor | None) -> None:
    model, found = saved(tmp_path / "b", loss, rows(targets))
    assert found.manifest["loss"]["spec"] in (name, "auto")
    assert found.manifest["graph"]["with_loss"] is False
    functions = {
        "cross-entropy": functional.cross_entropy,
        "mse": functional.mse_loss,
        "bce": functional.binary_cross_entropy_with_logits,
    }
    told, value = value_of(found, model)
    expected = float(functions[name](model(rows()["x"]), rows(targets)["y"]).detach())
    assert (told, value) == (name, pytest.approx(expected, rel=1e-6))


OWN: list[tuple[Any, Any]] = [
    (partial(smoothed, smoothing=0.1), partial(smoothed, smoothing=0.1)),
    (lambda model, batch: smoothed(model, batch, smoothing=0.2), partial(smoothed, smoothing=0.2)),
    (nn.CrossEntropyLoss(label_smoothing=0.3), partial(smoothed, smoothing=0.3)),
    (summed, partial(smoothed, smoothing=0.0)),
    (nn.CrossEntropyLoss(reduction="sum"), lambda model, batch: 6 * smoothed(model, batch, smoothing=0.0)),
]


@pytest.mark.parametrize(("loss", "plain"), OWN)
def test_a_loss_of_the_users_own_is_in_the_graph(tmp_path: Path, loss: Any, plain: Any) -> None:
    model, found = saved(tmp_path / "b", loss)
    assert (found.manifest["loss"]["spec"], found.manifest["graph"]["with_loss"]) == (None, True)
    told, value = value_of(found, model)
    assert told.endswith("(in the bundle)")
    assert value == pytest.approx(float(plain(model, rows()).detach()), rel=1e-6)


def test_settings_of_a_loss_are_kept_apart(tmp_path: Path) -> None:
    """Graphs of one network with two losses are two."""
    model, first = saved(tmp_path / "a", nn.CrossEntropyLoss(label_smoothing=0.3))
    _, second = saved(tmp_path / "b", nn.CrossEntropyLoss(label_smoothing=0.1), model=model)
    for found, smoothing in ((first, 0.3), (second, 0.1)):
        expected = float(smoothed(model, rows(), smoothing=smoothing).detach())
        assert value_of(found, model)[1] == pytest.approx(expected, rel=1e-6)


def test_the_networks_own_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = {"x": rows()["x"], "labels": rows()["y"]}
    model, found = saved(tmp_path / "b", "auto", batch, Own())
    assert value_of(found, model)[1] == pytest.approx(float(model(**batch)["loss"].detach()), rel=1e-6)


def test_a_loss_in_a_graph_is_not_had_for_another_network(tmp_path: Path) -> None:
    model, found = saved(tmp_path / "b", summed)
    with pytest.raises(MismatchError, match="a function that is not in it") as raised:
        bundled_loss(found, model)
    assert "--loss file.py:function" in raised.value.hint


NO_LOSSES = [None, [], {}, {"spec": "os:system", "name": "x"}, {"spec": None, "name": 3}, {"spec": 1}, {"spec": []}]


@pytest.mark.parametrize("told", NO_LOSSES)
def test_what_names_no_loss_is_refused(tmp_path: Path, told: Any) -> None:
    model, found = saved(tmp_path / "b", "cross-entropy")
    manifest = copy.deepcopy(dict(found.manifest)) | {"loss": told}
    with pytest.raises(InputError, match="names no loss"):
        bundled_loss(Bundle(found.directory, json.loads(json.dumps(manifest))), model)


def test_a_batch_is_arranged_as_it_was(tmp_path: Path) -> None:
    x, y = rows().values()
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    given: Any = (x, [y, {"weight": torch.ones(6), "name": "rows", "part": 0.5}])
    loss = lambda network, batch: functional.cross_entropy(network(batch[0]), batch[1][0])  # noqa: E731
    bundle.save(tmp_path / "b", model, given, loss, strict=True)
    found = bundled_batch(read_bundle(tmp_path / "b")).data
    assert type(found) is tuple and type(found[1]) is list
    assert torch.equal(found[0], x) and torch.equal(found[1][0], y)
    assert (found[1][1]["name"], found[1][1]["part"]) == ("rows", 0.5)
