import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.norms.settings import Settings, find_settings
from fromage_cli.errors import UsageError
from fromage_cli.problem.beside import Declared


def plain(tmp_path, step):
    save_file({"w": torch.ones(2, 2)}, tmp_path / f"step-{step}.safetensors")
    return open_checkpoint(tmp_path / f"step-{step}.safetensors")


def trained(tmp_path, step, *rates):
    weights = [torch.nn.Parameter(torch.ones(2, 2)) for _ in rates]
    groups = [{"params": [weight], "lr": rate} for weight, rate in zip(weights, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.5)
    for weight in weights:
        weight.grad = torch.ones(2, 2)
    optimizer.step()
    saved = {"model": {f"w{index}": weight.data for index, weight in enumerate(weights)}, "step": step}
    torch.save({**saved, "optimizer": optimizer.state_dict()}, tmp_path / f"step-{step}.pt")
    return open_checkpoint(tmp_path / f"step-{step}.pt")


def never() -> Declared:
    raise AssertionError("nothing beside the checkpoint is needed")


def test_given_settings_need_nothing_else(tmp_path):
    series = [plain(tmp_path, 1), plain(tmp_path, 2)]
    assert find_settings(series, never, "lars", 0.1, 0.0) == Settings("lars", (0.1, 0.1), 0.0)
    assert find_settings(series, never, "lars", 0.0, 0.0).learning_rates == (0.0, 0.0)


def test_the_state_tells_kind_rates_and_decay(tmp_path):
    series = [trained(tmp_path, 1, 0.25, 0.25), trained(tmp_path, 2, 0.125)]
    assert find_settings(series, never, None, None, None) == Settings("adamw", (0.25, 0.125), 0.5)
    assert find_settings(series, never, None, 0.75, None).learning_rates == (0.75, 0.75)


def test_groups_that_differ_have_no_one_rate(tmp_path):
    assert find_settings([trained(tmp_path, 1, 0.1, 0.2)], Declared, None, None, None).learning_rates == (None,)


def test_what_is_declared_fills_the_gaps(tmp_path):
    def declared() -> Declared:
        return Declared(learning_rate=0.02, weight_decay=0.1)

    assert find_settings([plain(tmp_path, 1)], declared, "sgd", None, None) == Settings("sgd", (0.02,), 0.1)
    assert find_settings([plain(tmp_path, 1)], declared, "sgd", 0.5, None) == Settings("sgd", (0.5,), 0.1)


def test_without_an_optimizer_a_rate_says_nothing(tmp_path):
    assert find_settings([plain(tmp_path, 1)], never, None, None, None) == Settings(None, (None,), None)
    with pytest.raises(UsageError, match="--lr says nothing") as error:
        find_settings([plain(tmp_path, 1)], never, None, 0.1, None)
    assert "--optimizer" in error.value.hint
    with pytest.raises(UsageError, match="--weight-decay says nothing"):
        find_settings([plain(tmp_path, 1)], never, None, None, 0.1)
