import torch
from torch import Tensor

from fromage_cli.probes.forward_pass.seen_calls import looked_at, widened


def test_a_look_sees_what_the_call_was_given_and_leaves_no_graph() -> None:
    looks: list[tuple[Tensor, bool]] = []
    x = torch.ones(2, requires_grad=True)
    doubled = looked_at(lambda given, *, factor: factor * given, lambda given, *, factor: looks.append((given, False)))
    assert torch.equal(doubled(x, factor=2.0), torch.full((2,), 2.0))
    assert looks[0][0] is x
    looked_at(torch.sin, lambda given: looks.append((given.exp(), given.exp().requires_grad)))(x)
    assert looks[1][1] is False


def test_a_call_without_numbers_is_made_unseen() -> None:
    looks: list[Tensor] = []
    seen = looked_at(torch.sin, looks.append)
    assert seen(torch.ones(2, device="meta")).shape == (2,)
    assert torch.equal(torch.func.vmap(seen)(torch.ones(2, 3)), torch.ones(2, 3).sin())
    assert looks == []


def test_numbers_are_widened_to_single_precision_at_least() -> None:
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    assert widened(x).dtype == torch.float32 and not widened(x).requires_grad
    assert widened(x.double()).dtype == torch.float64
