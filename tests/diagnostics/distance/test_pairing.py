import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.distance.pairing import pair_tensors
from fromage_cli.errors import UsageError


@pytest.fixture
def opened(tmp_path):
    def open_both(first, second):
        paths = []
        for name, tensors in (("a", first), ("b", second)):
            if isinstance(tensors, torch.nn.Module):
                paths.append(tmp_path / f"{name}.pt")
                torch.save(tensors.state_dict(), paths[-1])
            else:
                paths.append(tmp_path / f"{name}.safetensors")
                save_file(tensors, paths[-1])
        return tuple(open_checkpoint(path) for path in paths)

    return open_both


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.token = torch.nn.Embedding(5, 4)
        self.output = torch.nn.Linear(4, 5, bias=False)
        self.output.weight = self.token.weight


def test_matrices_of_one_shape_are_paired_in_the_order_of_the_first(opened):
    first = {"b": torch.ones(2, 2), "a": torch.ones(2, 3), "v": torch.ones(3), "n": torch.ones(2, 2).int()}
    second = {"a": torch.ones(2, 4), "b": torch.ones(2, 2), "c": torch.ones(1, 1), "v": torch.ones(3)}
    found = pair_tensors(*opened(first, second), "matrices", (), ())
    assert found.names == ("b",)
    assert found.unpaired.reshaped == ("a",) and found.unpaired.only_second == ("c",)
    assert found.unpaired.only_first == ()


def test_vectors_and_globs(opened):
    both = {"a.w": torch.ones(2, 2), "a.b": torch.ones(2), "c.w": torch.ones(2, 2)}
    assert set(pair_tensors(*opened(both, both), "all", (), ()).names) == {"a.w", "a.b", "c.w"}
    assert pair_tensors(*opened(both, both), "matrices", ("a.*",), ()).names == ("a.w",)
    assert pair_tensors(*opened(both, both), "matrices", (), ("a.*",)).names == ("c.w",)


def test_a_tie_in_both_counts_once(opened):
    found = pair_tensors(*opened(Tied(), Tied()), "matrices", (), ())
    assert found.names == ("token.weight",)
    assert found.unpaired.first_ties == found.unpaired.second_ties == ()


def test_a_tie_that_the_other_keeps_twice_is_said_and_compared_twice(opened):
    second = {"token.weight": torch.ones(5, 4), "output.weight": torch.ones(5, 4)}
    found = pair_tensors(*opened(Tied(), second), "matrices", (), ())
    assert set(found.names) == {"token.weight", "output.weight"}
    assert found.unpaired.first_ties == (("token.weight", "output.weight"),)


def test_a_tie_that_the_other_keeps_under_one_name_lacks_nothing(opened):
    found = pair_tensors(*opened(Tied(), {"token.weight": torch.ones(5, 4)}), "matrices", (), ())
    assert found.names == ("token.weight",)
    assert found.unpaired.only_first == () and found.unpaired.first_ties == ()


def test_networks_without_a_common_layer_are_refused(opened):
    with pytest.raises(UsageError, match="No layer is left") as refused:
        pair_tensors(*opened({"a.w": torch.ones(2, 3)}, {"b.w": torch.ones(2, 3)}), "matrices", (), ())
    assert "'a.w'" in refused.value.hint and refused.value.details == ("a.w", "b.w")
