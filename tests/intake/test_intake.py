import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.cli import main
from fromage_cli.errors import UsageError
from fromage_cli.intake import Intake, checkpoint_record, open_problem
from fromage_cli.optim import Fromage
from fromage_cli.probes.optimizer_step.matched_state import MatchedState, match_state
from fromage_cli.terminal.answer import Answer, Estimate, estimate_answer
from fromage_cli.terminal.optimizer_options import OptimizerOptions
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions


def test_the_envelope_names_the_file_that_was_read():
    run = open_checkpoint("sample_checkpoints/mlp-16")
    record = checkpoint_record(run)
    assert record.path == str(run.weights)
    assert record.step == run.step
    assert f"{run.step:06d}" in record.path


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
    found, notes = intake.trained_layers(names)
    assert notes == ("Left out 2 layers that the model does not train: net.frozen.weight, net.unused.",)
    assert {name: tensor.name for name, tensor in found.items()} == {"net.outer.weight": "inner.weight"}
    copy, notes = intake.trained_layers(("net.inner.weight", "net.outer.weight"))  # stored twice, say: one is enough
    assert list(copy) == ["net.outer.weight"] and notes == ()
    with pytest.raises(UsageError, match=r"trains none of net\.frozen\.weight"):
        intake.trained_layers(names[1:])


def test_settings_are_flags_that_could_be_typed(tmp_path):
    (tmp_path / "network.py").write_text(FACTORY)
    torch.save({"x": torch.randn(4, 3), "y": torch.tensor([0, 1, 2, 0])}, tmp_path / "b.pt")
    given = {"model": f"{tmp_path / 'network.py'}:Network", "batch": str(tmp_path / "b.pt")}
    intake = open_problem(None, ModelOptions(model=given["model"]), BatchOptions(batch=given["batch"]), RunOptions())
    assert intake.settings == {**given, "loss": "cross-entropy", "mode": "auto", "device": "cpu", "micro_batch": None}
    assert intake.record.model == f"Network from {given['model']}"
    sample = open_problem("sample_checkpoints/mlp-2", ModelOptions(), BatchOptions(), RunOptions())
    assert (sample.settings["model"], sample.settings["batch"]) == (
        "auto",
        "sample_checkpoints/mlp-2/batch.safetensors",
    )


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


def opened(**model: object) -> Intake:
    return open_problem(
        "sample_checkpoints/mlp-16",
        ModelOptions(**model),
        BatchOptions(batch="sample_checkpoints/mlp-16/batch.safetensors"),
        RunOptions(),
    )


def test_whether_the_weights_are_past_their_initialisation(tmp_path):
    fresh = ModelOptions(model="sample_checkpoints/models.py:mlp")
    options = BatchOptions(batch="sample_checkpoints/mlp-2/batch.safetensors")
    assert opened().trained and open_problem(None, fresh, options, RunOptions()).trained is False
    weights = torch.nn.Linear(3, 3).state_dict()
    batch = {"x": torch.randn(4, 3), "y": torch.tensor([0, 1, 2, 0])}
    torch.save(batch, tmp_path / "b.pt")
    found = []
    for name, more in (("none", {}), ("first", {"step": 0}), ("later", {"step": 4})):
        torch.save({"model": {f"0.{key}": value for key, value in weights.items()}, **more}, tmp_path / f"{name}.pt")
        options = BatchOptions(batch=str(tmp_path / "b.pt"))
        found.append(open_problem(str(tmp_path / f"{name}.pt"), ModelOptions(), options, RunOptions()).trained)
    assert found == [None, False, True]


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


def test_a_network_is_made_again_with_the_weights_of_another_seed():
    intake = opened(model="sample_checkpoints/models.py:mlp", model_arg=["depth=16"])
    first, again, second = intake.rebuilt(), intake.rebuilt(0), intake.rebuilt(1)
    torch.manual_seed(intake.problem.seed + 1)
    drawn = torch.nn.Linear(64, 64).weight  # the factory's first draw under the next seed
    assert torch.equal(second.model.layers[0].weight, drawn)
    assert torch.equal(first.model.layers[0].weight, again.model.layers[0].weight)
    assert second.evaluations is intake.problem.evaluations and second.seed == intake.problem.seed
    rebuilt = opened()
    weights = [rebuilt.rebuilt(seed).trainable[0].parameter for seed in (0, 1, 1)]
    assert torch.equal(weights[1], weights[2]) and not torch.equal(weights[0], weights[1])


def test_a_network_rebuilt_from_its_checkpoint_gets_weights_as_torch_draws_them():
    intake = opened()
    fresh = intake.rebuilt()
    assert fresh is not None and fresh.model is not intake.problem.model
    trained, drawn = (problem.trainable[0].parameter for problem in (intake.problem, fresh))
    assert trained.shape == drawn.shape and not torch.equal(trained, drawn)
    assert float(drawn.detach().abs().max()) <= drawn.shape[1] ** -0.5


NOISY = """
import torch

class Network(torch.nn.Linear):
    def __init__(self, weight=1.0):
        super().__init__(3, 3)
        self.noise = weight

    def forward(self, x):
        return super().forward(x + self.noise * torch.randn_like(x))
"""


@pytest.mark.parametrize(("weight", "drawn"), [(1.0, True), (0.0, False)])
def test_what_is_one_draw_of_many_is_said_to_be(tmp_path, weight, drawn):
    (tmp_path / "network.py").write_text(NOISY)
    torch.save({"x": torch.randn(4, 3), "y": torch.tensor([0, 1, 2, 0])}, tmp_path / "b.pt")
    intake = open_problem(
        None,
        ModelOptions(model=f"{tmp_path / 'network.py'}:Network", model_arg=[f"weight={weight}"]),
        BatchOptions(batch=str(tmp_path / "b.pt")),
        RunOptions(seed=4),
    )
    answer = Answer(None, page=lambda style: "")
    assert intake.complete(answer).problem.noise is None  # nothing is known of it yet
    loss = intake.problem.base.loss
    complete = intake.complete(answer)
    said = "The network draws random numbers in its forward pass. These numbers are from one draw (seed 4)."
    assert (said in complete.notes) == drawn
    assert [finding.code for finding in complete.findings] == ["one-draw-of-many"] * drawn
    if drawn:
        noise = complete.problem.noise
        losses = [loss, *(intake.problem.drawn(further).value() for further in range(1, 5))]
        assert (noise.seeds, noise.loss_mean) == (5, pytest.approx(sum(losses) / 5))
        assert f"the loss is {noise.loss_mean:.4g} ± {noise.loss_spread:.2g}" in complete.findings[0].message
    else:
        assert complete.problem.noise is None
    assert intake.complete(estimate_answer(Estimate(1.0, 1, 1.0))).problem.noise is None


NETWORK = """
from torch import nn

def network():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
"""


@pytest.mark.parametrize("given", [True, False])
def test_what_the_optimizer_never_updated_does_not_move_here_either(tmp_path, given):
    """Frozen tensors that the optimizer was given, or not."""
    (tmp_path / "network.py").write_text(NETWORK)
    scope = {}
    exec(NETWORK, scope)
    model = scope["network"]()
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if given or p.requires_grad])
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    torch.save({"x": torch.randn(4, 8), "y": torch.tensor([0, 1, 2, 0])}, tmp_path / "b.pt")

    def opened(**asked):
        return open_problem(
            str(tmp_path / "c.pt"),
            ModelOptions(model=f"{tmp_path / 'network.py'}:network", **asked),
            BatchOptions(batch=str(tmp_path / "b.pt")),
            RunOptions(),
        ).as_trained()

    intake = opened()
    moving = ["2.weight", "2.bias", "4.weight", "4.bias"]
    assert intake.frozen == ("0.weight", "0.bias") and "2 tensors never moved" in intake.notes[-1]
    assert [tensor.name for tensor in intake.problem.trainable] == moving
    assert [tensor.name for tensor in intake.rebuilt().trainable] == moving
    rule = intake.optimizer(OptimizerOptions())
    matched = MatchedState(intake.problem, rule, intake.checkpoint.optimizer)
    for name, index in zip(moving, (2, 2, 4, 4), strict=True):
        kept = optimizer.state[getattr(model[index], name[2:])]["exp_avg"]
        assert torch.equal(matched.members[name][0]["exp_avg"], kept)
    aside = opened(optimizer_state="none")
    assert not aside.frozen and len(aside.problem.trainable) == 6 and aside.optimizer(OptimizerOptions()).name is None


def test_one_of_two_optimizers_moves_what_it_moved(tmp_path):
    (tmp_path / "network.py").write_text(NETWORK)
    scope = {}
    exec(NETWORK, scope)
    model = scope["network"]()
    adamw = torch.optim.AdamW([p for p in model.parameters() if p.dim() < 2], lr=3e-3)
    muon = torch.optim.Muon([p for p in model.parameters() if p.dim() == 2], lr=0.02, weight_decay=0.3)
    model(torch.randn(4, 8)).square().mean().backward()
    states = [one.step() or one.state_dict() for one in (adamw, muon)]
    torch.save({"model": model.state_dict(), "optimizers": states}, tmp_path / "c.pt")
    torch.save({"x": torch.randn(4, 8), "y": torch.tensor([0, 1, 2, 0])}, tmp_path / "b.pt")
    intake = open_problem(
        str(tmp_path / "c.pt"),
        ModelOptions(model=f"{tmp_path / 'network.py'}:network"),
        BatchOptions(batch=str(tmp_path / "b.pt")),
        RunOptions(),
    ).as_trained()
    unknown = intake.optimizer(OptimizerOptions())
    assert unknown.name is None and not intake.frozen
    assert (
        "adamw (3 tensors) and muon (3 tensors); to use one, with the tensors that it moves, give --optimizer NAME"
        in unknown.notes[0]
    )
    for name, rate, decay, ending in (("muon", 0.02, 0.3, "weight"), ("adamw", 3e-3, 0.01, "bias")):
        rule = intake.optimizer(OptimizerOptions(optimizer=name))
        assert (rule.learning_rate, rule.weight_decay, rule.notes) == (rate, decay, ())
        matched = match_state(intake.problem, rule, intake.checkpoint.optimizer)
        assert list(matched.members) == [f"{layer}.{ending}" for layer in (0, 2, 4)]
        assert matched.holds_memory


LIMITED = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(3, 6), NORM, nn.Linear(6, 3)

    def forward(self, x):
        if len(x) > ROWS:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return self.second(self.norm(self.first(x)).tanh())
"""


def limited(folder: Path, rows: int, norm: str = "nn.Identity()", *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, envelope and messages of a breakdown of a network that fails above so many rows."""
    folder = folder / f"{rows} {norm} {len(words)}"
    folder.mkdir()
    (folder / "small.py").write_text(LIMITED.replace("ROWS", str(rows)).replace("NORM", norm))
    torch.save({"x": torch.linspace(-1, 1, 24).view(8, 3), "y": torch.arange(8) % 3}, folder / "b.pt")
    given = ["breakdown", "--model", f"{folder / 'small.py'}:Network", "--batch", str(folder / "b.pt"), *words]
    output, messages = StringIO(), StringIO()
    with redirect_stdout(output), redirect_stderr(messages), pytest.raises(SystemExit) as end:
        main([*given, "--eta", "1e-3,1e-2", "--json"])
    return int(str(end.value.code)), json.loads(output.getvalue()), messages.getvalue()


def test_a_batch_that_does_not_fit_is_measured_in_chunks_that_do(tmp_path: Path) -> None:
    code, found, messages = limited(tmp_path, 3)
    assert code == 0 and found["settings"]["micro_batch"] == 2
    assert "The batch did not fit in memory, so it is evaluated in chunks of 2 rows." in messages
    explicit = limited(tmp_path, 8, "nn.Identity()", "--micro-batch", "2")[1]
    assert found["result"] == explicit["result"]


def test_a_batch_that_cannot_be_made_to_fit_is_one_message(tmp_path: Path) -> None:
    for rows, norm, reason in ((0, "nn.Identity()", "one row alone"), (7, "nn.BatchNorm1d(6)", "statistics from all")):
        code, found, messages = limited(tmp_path, rows, norm)
        assert code == 7 and messages.count("error: ") == 1 and "Traceback" not in messages
        assert reason in found["error"]["message"]
