import numpy as np
import torch

from fromage_cli.problem.conditions.independent_copy import independent_copy


def test_a_copy_takes_memory_only_when_it_is_written_into() -> None:
    whole, from_numpy = torch.ones(4, 3), torch.from_numpy(np.ones((4, 3), dtype=np.float32))
    lazy = independent_copy(whole)
    assert torch._C._is_cow_tensor(lazy)  # type: ignore[attr-defined]
    lazy.mul_(2.0)
    assert not torch._C._is_cow_tensor(lazy)  # type: ignore[attr-defined]
    for tensor in (whole, whole[1:3], from_numpy):
        copy = independent_copy(tensor)
        copy.mul_(2.0)
        assert copy.untyped_storage().nbytes() == tensor.nbytes
        assert torch.equal(copy, 2.0 * torch.ones_like(tensor))
        assert torch.equal(tensor, torch.ones_like(tensor))
