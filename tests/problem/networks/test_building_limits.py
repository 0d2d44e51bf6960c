import pytest
import torch
from torch import nn

from fromage_cli.errors import MismatchError
from fromage_cli.problem.networks.building_limits import BuildingLimits


def limits(elements: int = 10) -> BuildingLimits:
    return BuildingLimits("config.json describes", elements, 4)


def test_an_ordinary_network_passes_and_the_hook_is_gone_afterwards() -> None:
    with torch.device("meta"), limits().watching():
        model = nn.Sequential(nn.Linear(100, 100), nn.BatchNorm1d(100))
    limits().check_whole(model)
    assert nn.Linear(1000, 1000).weight.shape == (1000, 1000)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.Linear(1000, 500), "a network of 2000000 bytes or more, but the checkpoint holds 10 numbers"),
        (lambda: torch.ones(10**5, 10**5), "a network of 40000000000 bytes or more"),
        (lambda: [nn.Linear(1, 1) for _ in range(10**9)], "far more layers than its checkpoint has tensors"),
    ],
    ids=["parameter", "table", "layers"],
)
def test_what_is_too_large_ends_the_building(build, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MismatchError, match=words), torch.device("meta"), limits().watching():
        build()
    assert not nn.modules.module._global_parameter_registration_hooks


def test_all_tensors_together_are_checked_and_a_larger_checkpoint_allows_more() -> None:
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(300, 300) for _ in range(6)))
    with pytest.raises(MismatchError, match="of 2167200 bytes"):
        limits().check_whole(model)
    limits(elements=300_000).check_whole(model)
