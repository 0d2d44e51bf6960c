import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.intrinsic_lr.settings import Training, find_training
from fromage_cli.errors import UsageError
from fromage_cli.optim import LARS, Lion
from fromage_cli.optimizers.settings import Given
from fromage_cli.problem.user_code.declared import Declared
from fromage_cli.theory.equilibrium import momentum_gains


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.second = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.second(self.norm(self.first(x)))


def groups(model, **second):
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    return [{"params": matrices}, {"params": vectors, **second}]


@pytest.fixture
def trained(tmp_path):
    def save(make, name="step-1.pt", steps=1):
        torch.manual_seed(0)
        model = Network()
        optimizer = make(model)
        for _ in range(steps):
            model(torch.randn(8, 4)).square().sum().backward()
            optimizer.step()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / name)
        return open_checkpoint(tmp_path / name)

    return save


def find(checkpoints, given=None, declared=None, names=("first.weight", "second.weight"), **options):
    return find_training(checkpoints, names, given or Given(), declared or Declared(), **options)


def test_groups_are_matched_to_layers(trained):
    checkpoint = trained(
        lambda model: torch.optim.AdamW(
            groups(model, weight_decay=0.0, lr=2e-3), lr=1e-3, betas=(0.8, 0.9), weight_decay=0.1
        )
    )
    found = find([checkpoint], names=("first.weight", "norm.weight"))
    assert (found.optimizer, found.betas, found.decoupled, found.momentum) == ("adamw", (0.8, 0.9), True, None)
    assert found.rates == {"first.weight": (1e-3,), "norm.weight": (2e-3,)}
    assert found.decays == {"first.weight": 0.1, "norm.weight": 0.0}


def test_groups_that_cannot_be_matched_leave_what_they_share(trained):
    checkpoint = trained(
        lambda model: torch.optim.SGD(groups(model, lr=0.2), lr=0.1, momentum=0.9, weight_decay=0.01), steps=0
    )
    found = find([checkpoint])
    assert found.rates["first.weight"] == (None,) and found.decays["first.weight"] == 0.01
    assert found.gains == momentum_gains(0.9) and "cannot be matched" in found.notes[0]


def test_groups_that_are_alike_or_tell_no_rate_are_no_groups_that_differ(trained):
    def alike(model):
        return torch.optim.SGD(groups(model), lr=0.1, momentum=0.9, weight_decay=0.01)

    found = find([trained(alike, steps=0)])
    assert found.rates["first.weight"] == (0.1,) and found.notes == ()

    def silent(model):
        optimizer = alike(model)
        for group in optimizer.param_groups:
            del group["lr"]
        return optimizer

    found = find([trained(silent, steps=0)])
    assert found.rates["first.weight"] == (None,) and found.notes == ()


def test_a_model_tells_which_tensors_are_trained(trained):
    checkpoint = trained(lambda model: torch.optim.SGD(groups(model, lr=0.2), lr=0.1, momentum=0.9))
    shapes = {name: tuple(value.shape) for name, value in Network().named_parameters()}
    assert find([checkpoint], shapes=shapes).rates["second.weight"] == (0.1,)


def test_rates_along_a_series(trained):
    first, last = (
        trained(lambda model, rate=rate: torch.optim.SGD(model.parameters(), lr=rate), f"step-{step}.pt")
        for step, rate in ((1, 0.1), (2, 0.05))
    )
    assert find([first, last]).rates["first.weight"] == (0.1, 0.05)


def test_what_is_given_wins_over_the_state_and_that_over_what_is_declared(trained):
    checkpoint = trained(lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4))
    declared = Declared(learning_rate=5.0, weight_decay=6.0, momentum=0.5, steps_per_epoch=7)
    found = find([checkpoint], declared=declared)
    assert (found.rates["first.weight"], found.decays["first.weight"], found.momentum) == ((0.1,), 1e-4, 0.9)
    assert found.steps_per_epoch == 7
    given = Given(learning_rate=0.3, momentum=0.1, weight_decay=0.2)
    found = find([checkpoint], given, declared, steps_per_epoch=9)
    assert (found.rates["first.weight"], found.decays["first.weight"], found.momentum) == ((0.3,), 0.2, 0.1)
    assert found.steps_per_epoch == 9


def test_a_state_of_another_rule_does_not_count(trained):
    checkpoint = trained(lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    found = find([checkpoint], Given("lion"), Declared(learning_rate=0.01))
    assert (found.rates["first.weight"], found.betas, found.decoupled) == ((0.01,), (0.9, 0.99), True)
    assert "state of sgd" in found.notes[0]


@pytest.mark.parametrize(
    ("make", "optimizer"),
    [
        (lambda model: LARS(model.parameters(), lr=0.1, momentum=0.9, trust_coefficient=0.02), "lars"),
        (lambda model: Lion(model.parameters(), lr=0.1, betas=(0.9, 0.95)), "lion"),
        (lambda model: torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1), "adam"),
    ],
)
def test_rules(trained, make, optimizer):
    found = find([trained(make)])
    assert found.optimizer == optimizer
    assert found.trust == (0.02 if optimizer == "lars" else 1.0)
    assert found.decoupled == (optimizer == "lion")


def test_decoupled_decay_can_be_said(trained):
    checkpoint = trained(lambda model: torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1))
    assert find([checkpoint], decoupled=True).decoupled


@pytest.mark.parametrize(
    ("optimizer", "decoupled"),
    [("adamw", True), ("lion", True), ("muon", True), ("lamb", True), ("sgd", False), ("adam", False), ("lars", False)],
)
def test_whose_decay_goes_past_the_gradient(trained, optimizer, decoupled):
    checkpoint = trained(lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    assert find([checkpoint], Given(optimizer)).decoupled is decoupled
    assert find([checkpoint], Given(optimizer), decoupled=True).decoupled is (optimizer != "sgd")


@pytest.mark.parametrize(
    ("given", "declared", "words"),
    [
        (Given("sgd"), Declared(), "the momentum is not known; 0 is taken"),
        (Given("lars"), Declared(), "the momentum is not known; 0 is taken"),
        (Given("lars"), Declared(momentum=0.5), "the trust coefficient is not known; 1 is taken"),
        (Given("lion"), Declared(), "the betas are not known; 0.9, 0.99 are taken"),
        (Given("adamw"), Declared(), "the betas are not known; 0.9, 0.999 are taken"),
        (Given("sgd", momentum=0.0), Declared(), ""),
        (Given("sgd"), Declared(momentum=0.9), ""),
        (Given("adamw"), Declared(betas=(0.9, 0.95)), ""),
        (Given("fromage"), Declared(), ""),
    ],
)
def test_nothing_is_assumed_in_silence(tmp_path, given, declared, words):
    save_file({"first.weight": torch.ones(2, 2), "second.weight": torch.ones(2, 2)}, tmp_path / "c.safetensors")
    notes = find([open_checkpoint(tmp_path / "c.safetensors")], given, declared).notes
    assert bool(notes) == bool(words) and words in "".join(notes)


@pytest.mark.parametrize(
    ("optimizer", "decoupled", "takes"),
    [
        ("sgd", False, True),
        ("lars", False, True),
        ("lars", True, False),
        ("adam", False, False),
        ("adamw", True, False),
        ("fromage", False, False),
        ("radam", False, False),
    ],
)
def test_whose_equilibrium_norm_takes_gradients(optimizer, decoupled, takes):
    assert Training(optimizer, decoupled=decoupled).takes_gradients is takes


def test_variants_without_a_closed_form(trained):
    make = {
        "AMSGrad": lambda model: torch.optim.AdamW(model.parameters(), amsgrad=True),
        "LARS with a clipped trust ratio": lambda model: LARS(model.parameters(), trust_clip=True),
        None: lambda model: torch.optim.AdamW(model.parameters()),
    }
    assert {name: find([trained(one)]).variant for name, one in make.items()} == {name: name for name in make}


def test_a_rule_that_is_not_covered_has_rates_and_no_more(trained):
    found = find([trained(lambda model: torch.optim.RAdam(model.parameters(), lr=0.02, weight_decay=0.1))])
    assert (found.optimizer, found.rates["first.weight"], found.decays["first.weight"]) == ("radam", (0.02,), 0.1)
    assert (found.betas, found.decoupled) == (None, False) and "radam, which is not supported" in found.notes[0]


def test_what_the_flags_became(trained):
    def grouped(model):
        return torch.optim.AdamW(groups(model, lr=0.2, weight_decay=0.0), lr=0.1, weight_decay=0.01)

    flags = find([trained(grouped)], names=("first.weight", "norm.weight")).flags
    assert (flags["optimizer"], flags["lr"], flags["weight_decay"]) == ("adamw", 0.2, 0.01)
    assert (flags["betas"], flags["momentum"], flags["decoupled"]) == ("0.9,0.999", None, True)


def test_no_rule_is_a_usage_error(tmp_path):
    save_file({"first.weight": torch.ones(2, 2)}, tmp_path / "c.safetensors")
    with pytest.raises(UsageError, match="No optimizer is known"):
        find([open_checkpoint(tmp_path / "c.safetensors")])


def test_settings_that_are_tensors(trained):
    checkpoint = trained(lambda model: torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-3)))
    rate = find([checkpoint]).rates["first.weight"][0]
    assert rate == pytest.approx(1e-3) and isinstance(rate, float)
