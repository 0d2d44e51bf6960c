import threading

import pytest
import torch
from torch import Tensor, nn

from fromage_cli import api
from fromage_cli.api import live
from fromage_cli.errors import MismatchError, UsageError


def test_objects_stand_in_only_within() -> None:
    with live.standing_in({"batch": [1]}):
        assert live.batch == [1]
        with pytest.raises(AttributeError, match="loss"):
            _ = live.loss
    with pytest.raises(AttributeError, match="batch"):
        _ = live.batch


def test_a_copy_is_another_network_without_gradients(network: nn.Module) -> None:
    network(torch.randn(4, 3)).sum().backward()
    copied = live.factory_of(torch.compile(network))()  # type: ignore[arg-type]
    assert type(copied) is type(network)
    for mine, theirs in zip(network.parameters(), copied.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr() and theirs.grad is None


def test_a_network_that_cannot_be_copied_is_refused(rows: dict[str, Tensor]) -> None:
    network = nn.Linear(3, 2)
    network.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(MismatchError, match="cannot be copied") as refused:
        api.breakdown(network, rows)
    assert "fromage_cli.bundle.save" in refused.value.hint


def test_a_sharded_network_is_refused() -> None:
    network = nn.Linear(3, 2)
    network.weight.placements = ()
    with pytest.raises(UsageError, match="sharded"):
        live.factory_of(network)
