import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.norms.settings import Settings, find_settings
from fromage_cli.errors import UsageError
from fromage_cli.optim import LARS
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


def given(optimizer=None, rate=None, decay=None, **others) -> Settings:
    return Settings(optimizer, (rate,), decay, **others)


def test_given_settings_win(tmp_path):
    series = [plain(tmp_path, 1), plain(tmp_path, 2)]
    declared = Declared(learning_rate=0.5, weight_decay=0.5, steps_per_epoch=7)
    assert find_settings(series, declared, given("lars", 0.1, 0.0)) == Settings(
        "lars", (0.1, 0.1), 0.0, steps_per_epoch=7
    )
    found = find_settings(series, declared, given("lars", 0.0, 0.0, momentum=0.9, steps_per_epoch=3))
    assert (found.learning_rates, found.momentum, found.steps_per_epoch) == ((0.0, 0.0), 0.9, 3)


def test_the_state_tells_kind_rates_and_decay(tmp_path):
    series = [trained(tmp_path, 1, 0.25, 0.25), trained(tmp_path, 2, 0.125)]
    expected = Settings("adamw", (0.25, 0.125), 0.5, first_beta=0.9)
    assert find_settings(series, Declared(learning_rate=1.0), given()) == expected
    assert find_settings(series, Declared(), given(rate=0.75)).learning_rates == (0.75, 0.75)


def test_the_state_of_lars(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([weight], lr=0.5, momentum=0.9, weight_decay=0.1, trust_coefficient=0.02)
    saved = {"model": {"w": weight.data}, "step": 1, "optimizer": optimizer.state_dict()}
    torch.save(saved, tmp_path / "step-1.pt")
    found = find_settings([open_checkpoint(tmp_path / "step-1.pt")], Declared(), given())
    assert (found.optimizer, found.momentum, found.trust_coefficient, found.coupled) == ("lars", 0.9, 0.02, True)


def test_groups_that_differ_have_no_one_rate(tmp_path):
    assert find_settings([trained(tmp_path, 1, 0.1, 0.2)], Declared(), given()).learning_rates == (None,)


def test_what_is_declared_fills_the_gaps(tmp_path):
    declared = Declared(learning_rate=0.02, weight_decay=0.1)
    assert find_settings([plain(tmp_path, 1)], declared, given("sgd")) == Settings("sgd", (0.02,), 0.1)
    assert find_settings([plain(tmp_path, 1)], declared, given("sgd", 0.5)) == Settings("sgd", (0.5,), 0.1)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (given(rate=0.1), "--lr says nothing"),
        (given(decay=0.1), "--weight-decay says nothing"),
        (given("sgd", momentum=0.9), "--momentum changes the law of growth of lars alone; the optimizer is sgd"),
        (given(first_beta=0.9), "--betas changes the law of growth of lamb alone; the optimizer is unknown"),
    ],
)
def test_what_says_nothing_is_refused(tmp_path, said, words):
    assert find_settings([plain(tmp_path, 1)], Declared(), given()) == Settings()
    with pytest.raises(UsageError, match=words) as error:
        find_settings([plain(tmp_path, 1)], Declared(), said)
    assert "--optimizer" in error.value.hint
