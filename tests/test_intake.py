import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import UnsafeError, UsageError
from fromage_cli.findings import Finding
from fromage_cli.intake import Intake, checkpoint_record, declared_by, open_problem, torch_device
from fromage_cli.optim import Fromage
from fromage_cli.terminal.answer import Answer
from fromage_cli.terminal.optimizer_options import OptimizerOptions
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions


def test_the_envelope_names_the_file_that_was_read():
    run = open_checkpoint("sample_checkpoints/mlp-16")
    record = checkpoint_record(run)
    assert record.path == str(run.weights)
    assert record.step == run.step
    assert f"{run.step:06d}" in record.path


def test_an_opened_checkpoint_serves_as_well_as_its_name():
    place = "sample_checkpoints/mlp-16"
    batch = BatchOptions(batch=f"{place}/batch.safetensors")
    named, given = (open_problem(ckpt, ModelOptions(), batch, RunOptions()) for ckpt in (place, open_checkpoint(place)))
    assert (named.notes, named.declared, named.checkpoints) == (given.notes, given.declared, given.checkpoints)
    assert float(named.problem.base.loss) == float(given.problem.base.loss)


def test_code_beside_a_checkpoint_is_declared_under_trust_alone(tmp_path):
    save_file({"w": torch.ones(2, 2)}, tmp_path / "c.safetensors")
    (tmp_path / "fromage.toml").write_text('model = "network.py:build"\nlearning_rate = 0.1\n')
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    with pytest.raises(UnsafeError, match="data only"):
        declared_by(checkpoint, trust=False)
    trusted = declared_by(checkpoint, trust=True)
    assert (trusted.model, trusted.learning_rate) == (f"{tmp_path / 'network.py'}:build", 0.1)


FACTORY = """
import torch

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.frozen = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        self.outer = torch.nn.Linear(3, 3)
        self.outer.weight = self.inner.weight
        self.frozen.requires_grad_(False)
        self.unused = torch.nn.Parameter(torch.ones(2, 2))

    def forward(self, x):
        return self.outer(self.frozen(self.inner(x)))
"""


def test_layers_that_the_model_trains_by_their_names_in_the_checkpoint(tmp_path):
    (tmp_path / "network.py").write_text(FACTORY)
    scope = {}
    exec(FACTORY, scope)
    weights = {f"net.{name}": value for name, value in scope["Network"]().state_dict().items()}
    torch.save(dict(sorted(weights.items(), key=lambda item: item[0] != "net.outer.weight")), tmp_path / "c.pt")
    torch.save({"x": torch.randn(4, 3), "y": torch.tensor([0, 1, 2, 0])}, tmp_path / "b.pt")
    intake = open_problem(
        str(tmp_path / "c.pt"),
        ModelOptions(model=f"{tmp_path / 'network.py'}:Network"),
        BatchOptions(batch=str(tmp_path / "b.pt")),
        RunOptions(),
    )
    names = ("net.outer.weight", "net.frozen.weight", "net.unused")  # of tied tensors the file's first
    found = intake.trained_layers(names)
    assert {name: tensor.name for name, tensor in found.items()} == {"net.outer.weight": "inner.weight"}
    with pytest.raises(UsageError, match=r"trains none of net\.frozen\.weight"):
        intake.trained_layers(names[1:])


def test_the_optimizer_of_the_flags_and_of_the_state(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3))
    rule = Fromage(model.parameters(), lr=0.02)
    model(torch.ones(1, 3)).sum().backward()
    rule.step()
    torch.save({"model": model.state_dict(), "optimizer": rule.state_dict()}, tmp_path / "c.pt")
    torch.save({"x": torch.randn(4, 3), "y": torch.tensor([0, 1, 2, 0])}, tmp_path / "b.pt")
    intake = open_problem(
        str(tmp_path / "c.pt"), ModelOptions(model="auto"), BatchOptions(batch=str(tmp_path / "b.pt")), RunOptions()
    )
    found = intake.optimizer(OptimizerOptions())
    assert (found.name, found.learning_rate) == ("fromage", 0.02)
    said = intake.optimizer(OptimizerOptions("adamw", lr=0.1, betas=".5,.6", weight_decay=0.2))
    assert (said.name, said.learning_rate, said.betas, said.weight_decay) == ("adamw", 0.1, (0.5, 0.6), 0.2)
    with pytest.raises(UsageError, match="Fromage has no weight decay"):
        intake.optimizer(OptimizerOptions(weight_decay=0.1))


@pytest.mark.parametrize(("loss", "count"), [("auto", 1), ("mse", 0), ("cross-entropy", 0)])
def test_a_squared_error_that_nobody_named_is_doubted_where_targets_are_classes(tmp_path, loss, count):
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 3)).state_dict(), tmp_path / "c.pt")
    torch.save({"x": torch.randn(4, 3), "y": torch.eye(3)[torch.tensor([0, 2, 1, 0])]}, tmp_path / "b.pt")
    batch = BatchOptions(batch=str(tmp_path / "b.pt"), loss=loss)
    intake = open_problem(str(tmp_path / "c.pt"), ModelOptions(), batch, RunOptions())
    own = Finding("code", "info", "said by the command")
    *doubts, last = intake.complete(
        Answer("breakdown", None, page=lambda style: "", tables={}, findings=(own,))
    ).findings
    assert last is own and len(doubts) == count
    for doubt in doubts:
        assert (doubt.code, doubt.severity) == ("one-hot-targets", "warn") and "--loss cross-entropy" in doubt.hint


def test_a_device_that_is_not_there_is_refused():
    assert torch_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="CUDA devices here"):
        torch_device("cuda:99")


def opened(**model: object) -> Intake:
    return open_problem(
        "sample_checkpoints/mlp-16",
        ModelOptions(**model),
        BatchOptions(batch="sample_checkpoints/mlp-16/batch.safetensors"),
        RunOptions(),
    )


def test_a_network_from_a_factory_is_made_again():
    intake = opened(model="sample_checkpoints/models.py:mlp", model_arg=["depth=16"])
    fresh = intake.rebuilt()
    assert fresh is not None
    torch.manual_seed(intake.problem.seed)
    first = torch.nn.Linear(64, 64).weight  # the factory's own first draw
    assert torch.equal(fresh.model.layers[0].weight, first)
    assert not torch.equal(intake.problem.model.layers[0].weight, first)
    assert fresh.evaluations is intake.problem.evaluations
    assert fresh.budget is intake.problem.budget
    assert (fresh.batch, fresh.mode, fresh.loss) == (intake.problem.batch, intake.problem.mode, intake.problem.loss)


def test_a_network_rebuilt_from_its_checkpoint_gets_weights_as_torch_draws_them():
    intake = opened()
    fresh = intake.rebuilt()
    assert fresh is not None and fresh.model is not intake.problem.model
    trained, drawn = (problem.trainable[0].parameter for problem in (intake.problem, fresh))
    assert trained.shape == drawn.shape and not torch.equal(trained, drawn)
    assert float(drawn.detach().abs().max()) <= drawn.shape[1] ** -0.5


ROTARY = """
import torch

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)
        self.register_buffer("rotation", torch.polar(torch.ones(2), torch.tensor([1.0, 2.0])))

    def forward(self, x):
        turned = torch.view_as_complex(self.inner(x).reshape(-1, 2, 2)) * self.rotation
        return torch.view_as_real(turned).reshape(-1, 4)
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_complex_buffers_are_not_made_real(tmp_path, dtype):
    (tmp_path / "rotary.py").write_text(ROTARY)
    x, y = torch.randn(4, 4), torch.tensor([0, 1, 2, 3])
    torch.save({"x": x, "y": y}, tmp_path / "b.pt")
    intake = open_problem(
        None,
        ModelOptions(model=f"{tmp_path / 'rotary.py'}:Network"),
        BatchOptions(batch=str(tmp_path / "b.pt")),
        RunOptions(dtype=dtype),
    )
    inner = intake.problem.model.inner
    turned = torch.view_as_complex(inner(x.to(inner.weight.dtype)).reshape(-1, 2, 2))
    turned = turned * torch.polar(torch.ones(2), torch.tensor([1.0, 2.0]))
    expected = torch.nn.functional.cross_entropy(torch.view_as_real(turned).reshape(-1, 4), y)
    assert intake.problem.value() == pytest.approx(float(expected.detach()), rel=1e-6)
