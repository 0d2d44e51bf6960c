"""Saving leaves the training run as it was, also where it fails."""

import json
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli import bundle
from fromage_cli.errors import FromageError, InputError


class Counting(nn.Module):
    """Counts its calls in a number and in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("kept", torch.ones(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        return x * self.kept


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3))
        self.head, self.counting = nn.Linear(6, 3), Counting()

    def forward(self, x: Tensor) -> Tensor:
        return self.counting(self.head(self.body(x)))


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 4, generator=generator)
    return {"x": x, "y": torch.randint(3, (8,), generator=generator)}


def mean_loss(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(model(rows["x"]), rows["y"], label_smoothing=0.1)


def raising(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    model(rows["x"])
    torch.randn(3), random.random()
    raise RuntimeError("the loss was not ready")


def trained(steps: int = 2) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(2)
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        mean_loss(model, batch()).backward()
        optimizer.step()
    return model, optimizer


@pytest.fixture(scope="module")
def known() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A run whose graphs are made once for several tests, none of which trains it."""
    return trained()


def copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [copied(item) for item in value]
    return value


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What a training run depends on."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return {
        "weights": copied(dict(model.named_parameters())),
        "places": [parameter.data_ptr() for parameter in model.parameters()],
        "gradients": [copied(parameter.grad) for parameter in model.parameters()],
        "gradients are the same": [id(parameter.grad) for parameter in model.parameters()],
        "trained": [parameter.requires_grad for parameter in model.parameters()],
        "parameter hooks": [
            [list(held or ()) for held in (parameter._backward_hooks, parameter._post_accumulate_grad_hooks)]
            for parameter in model.parameters()
        ],
        "buffers": copied(dict(model.named_buffers())),
        "buffers are the same": [id(buffer) for buffer in model.buffers()],
        "optimizer": copied(optimizer.state_dict()),
        "modes": [module.training for module in model.modules()],
        "module hooks": [[list(getattr(module, name)) for name in hooks] for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "calls": [module.calls for module in model.modules() if isinstance(module, Counting)],
        "torch": torch.get_rng_state(),
        "random": random.getstate(),
        "numpy": [torch.as_tensor(part) if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "gradients recorded": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "precision": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def is_same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(is_same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(is_same, first, second))
    return bool(first == second)


class Unchanged:
    """Holds within it that nothing changes."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def __enter__(self) -> None:
        self.before = everything(self.model, self.optimizer)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        after = everything(self.model, self.optimizer)
        changed = [name for name, value in self.before.items() if not is_same(value, after[name])]
        assert error is not None or changed == []
        assert changed == []


@pytest.fixture(autouse=True)
def numbers_drawn() -> Iterator[None]:
    random.seed(4)
    np.random.seed(4)
    before = random.getstate(), np.random.get_state()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])


@pytest.mark.parametrize("loss", ["cross-entropy", mean_loss], ids=["name", "function"])
def test_the_run_is_left_as_it_was(tmp_path: Path, loss: Any) -> None:
    model, optimizer = trained()
    model.body[3].eval()  # a mode of its own
    for step in (1, 2):  # the first makes the graphs, the second has them
        with Unchanged(model, optimizer):
            saved = bundle.save(tmp_path / "b", model, batch(), loss, optimizer, step, strict=True)
    assert saved == tmp_path / "b"
    assert json.loads((tmp_path / "b" / "bundle.json").read_text())["graph"]["modes"] == ["eval", "auto", "train"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_hooks_of_parameters_do_not_run(tmp_path: Path) -> None:
    model, optimizer = trained()
    called: list[str] = []
    weight = model.head.weight
    handles = [
        weight.register_hook(lambda gradient: called.append("gradient")),
        weight.register_post_accumulate_grad_hook(lambda parameter: called.append("accumulated")),
    ]
    with Unchanged(model, optimizer):
        bundle.save(tmp_path / "b", model, batch(), mean_loss, optimizer, strict=True)
    assert called == []
    mean_loss(model, batch()).backward()
    assert called == ["gradient", "accumulated"]
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    "around",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_it_may_be_called_within(tmp_path: Path, around: Callable[[], AbstractContextManager[Any]]) -> None:
    model, optimizer = trained()
    with around(), Unchanged(model, optimizer):
        before = torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()
        bundle.save(tmp_path / "b", model, batch(), mean_loss, optimizer, strict=True)
        assert before == (torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled())
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert manifest["graph"]["missing"] is None
    assert manifest["autocast"] == ("bfloat16" if before[0] else None)


@pytest.mark.parametrize("in_place", [False, True], ids=["wrapped", "in place"])
def test_a_compiled_network_stays_compiled(tmp_path: Path, in_place: bool) -> None:
    model, optimizer = trained()
    compiled: Any = model
    if in_place:
        model.compile(backend="eager")
    else:
        compiled = torch.compile(model, backend="eager")
    before = mean_loss(compiled.eval(), batch())
    call = model._compiled_call_impl
    with Unchanged(model, optimizer):
        bundle.save(tmp_path / "b", compiled, batch(), mean_loss, optimizer, strict=True)
    assert model._compiled_call_impl is call
    assert torch.equal(mean_loss(compiled, batch()), before)
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert (manifest["network"], manifest["graph"]["missing"]) == ("Network", None)


@pytest.mark.parametrize("how", ["a directory that is no bundle", "a batch that is none", "a file"])
@pytest.mark.parametrize("strict", [False, True])
def test_what_fails_is_a_warning_and_changes_nothing(
    tmp_path: Path, known: tuple[nn.Module, torch.optim.Optimizer], how: str, strict: bool
) -> None:
    model, optimizer = known
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    place = {"a directory that is no bundle": "mine", "a file": "file"}.get(how, "b")
    rows: Any = {"x": object()} if how == "a batch that is none" else batch()
    with Unchanged(model, optimizer):
        if strict:
            with pytest.raises(FromageError):
                bundle.save(tmp_path / place, model, rows, mean_loss, optimizer, strict=True)
        else:
            with pytest.warns(UserWarning, match=r"was not saved: .* The run goes on\.") as seen:
                assert bundle.save(tmp_path / place, model, rows, mean_loss, optimizer) is None
            assert len(seen) == 1
            assert seen[0].filename == __file__
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine"]
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


FAILING = {"a loss that raises": raising, "an unknown name": "hinge", "no scalar": lambda model, rows: model(rows["x"])}


@pytest.mark.parametrize("loss", FAILING.values(), ids=FAILING)
def test_a_loss_that_fails_changes_nothing(tmp_path: Path, loss: Any) -> None:
    model, optimizer = trained()
    with Unchanged(model, optimizer), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle.save(tmp_path / "b", model, batch(), loss, optimizer)


@pytest.mark.parametrize("loss", FAILING.values(), ids=FAILING)
def test_a_loss_that_fails_is_told(tmp_path: Path, loss: Any) -> None:
    model, optimizer = trained()
    with pytest.warns(UserWarning) as seen:
        bundle.save(tmp_path / "b", model, batch(), loss, optimizer)
    assert len(seen) == 1
    with pytest.raises((RuntimeError, FromageError)):
        bundle.save(tmp_path / "c", model, batch(), loss, optimizer, strict=True)


def test_an_earlier_bundle_is_replaced_whole(tmp_path: Path, known: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    model, optimizer = known
    bundle.save(tmp_path / "b", model, batch(), mean_loss, optimizer, 1, strict=True)
    (tmp_path / "b" / "bundle.json").touch()
    bundle.save(tmp_path / "b", model, batch(), mean_loss, None, 2, strict=True)
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert (manifest["step"], manifest["optimizer"]) == (2, None)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {*manifest["files"], "bundle.json"}
    (tmp_path / "b" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="is no bundle"):
        bundle.save(tmp_path / "b", model, batch(), mean_loss, None, 3, strict=True)


@pytest.mark.parametrize("loss", [mean_loss, "cross-entropy"], ids=["function", "name"])
def test_a_run_that_saves_at_every_step_has_the_same_losses(tmp_path: Path, loss: Any) -> None:
    def losses(save: bool) -> list[float]:
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        model = Network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        found = []
        for step in range(5):
            rows = batch() if random.random() < 0.5 else {name: rows.flip(0) for name, rows in batch().items()}
            rows["x"] = rows["x"] + 0.1 * torch.randn(8, 4) + float(np.random.rand())
            optimizer.zero_grad()
            total = mean_loss(model, rows)
            total.backward()
            if save:
                bundle.save(tmp_path / f"{step}", model, rows, loss, optimizer, step, strict=True)
            optimizer.step()
            found.append(float(total.detach()))
        return [*found, *(float(each.sum()) for each in model.state_dict().values())]

    assert losses(save=True) == losses(save=False)


def test_nothing_is_said_where_it_goes_well(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, optimizer = trained()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        bundle.save(tmp_path / "b", model, batch(), mean_loss, optimizer, strict=True)
    assert [str(one.message) for one in seen] == []
    assert capfd.readouterr() == ("", "")


def of_states(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    return model(rows["x"])[0].square().mean()


def test_nothing_is_said_of_a_recurrent_network(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = nn.LSTM(4, 3, 2, batch_first=True, dropout=0.2)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        bundle.save(tmp_path / "b", model, {"x": torch.randn(4, 2, 4)}, of_states, strict=True)
    assert [str(one.message) for one in seen] == []
    assert capfd.readouterr() == ("", "")


def test_a_recurrent_network_keeps_its_weights_where_its_kernel_reads_them(tmp_path: Path) -> None:
    model = nn.LSTM(4, 3, 2, batch_first=True, dropout=0.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before, rows = [id(weight) for weight in model._flat_weights], {"x": torch.randn(4, 2, 4)}
    with Unchanged(model, optimizer), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle.save(tmp_path / "b", model, rows, of_states, optimizer, strict=True)
    assert [id(weight) for weight in model._flat_weights] == before == [id(weight) for weight in model.parameters()]
    assert model.dropout == 0.2
