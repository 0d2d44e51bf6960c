import pytest

from fromage_cli.checkpoints import TensorEntry
from fromage_cli.errors import MismatchError
from fromage_cli.problem.networks.perceptron_layout import read_layout


def entries(shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorEntry]:
    return {name: TensorEntry(name, "float32", shape) for name, shape in shapes.items()}


def perceptron(linears: list[str], norms: list[str], width: int = 4) -> dict[str, tuple[int, ...]]:
    last = len(linears) - 1
    weights = {f"{name}.weight": (2 if index == last else 4, 4 if index else 3) for index, name in enumerate(linears)}
    return {**weights, **{f"{name}.weight": (width,) for name in norms}}


@pytest.mark.parametrize(
    ("linears", "norms"),
    [
        (["0", "3", "6"], ["1", "4"]),
        (["fc1", "fc2", "fc3"], ["bn1", "bn2"]),
        (["layers.0", "layers.1", "layers.2"], ["norms.0", "norms.1"]),
        (["hidden.0.linear", "hidden.1.linear", "out"], ["hidden.0.norm", "hidden.1.norm"]),
        (["input", "output"], ["norm"]),
    ],
)
def test_every_hidden_layer_has_its_norm(linears: list[str], norms: list[str]) -> None:
    placements = read_layout(entries(perceptron(linears, norms)), "rmsnorm")
    assert [placement.linear.path for placement in placements] == linears
    assert [placement.norm and placement.norm.path for placement in placements] == [*norms, None]


@pytest.mark.parametrize(
    ("linears", "norms", "norm", "words"),
    [
        (["0", "3"], ["1"], "none", "'1' looks like a norm layer, but the kind of norm is not given"),
        (["0", "2"], [], "layernorm", "0 norm layers for 1 hidden layers"),
        (["0", "3", "6"], ["1"], "layernorm", "1 norm layers for 2 hidden layers"),
        (["0", "3"], ["2"], "layernorm", "norm '2' does not come right after '0'"),
        (["fc1", "fc2", "fc3"], ["bn2", "bn3"], "layernorm", "norm 'bn2' does not come right after 'fc1'"),
    ],
)
def test_norms_in_doubt_are_refused(linears: list[str], norms: list[str], norm: str, words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        read_layout(entries(perceptron(linears, norms)), norm)


def test_a_norm_of_another_width_or_kind_is_refused() -> None:
    with pytest.raises(MismatchError, match="norm '1' has width 5, but the layer before it, '0', has 4"):
        read_layout(entries(perceptron(["0", "3"], ["1"], width=5)), "layernorm")
    running = {**perceptron(["0", "3"], ["1"]), "1.running_mean": (4,), "1.running_var": (4,)}
    with pytest.raises(MismatchError, match="has running statistics, but norm = 'layernorm'"):
        read_layout(entries(running), "layernorm")
    with pytest.raises(MismatchError, match="has a bias, but norm = 'rmsnorm'"):
        read_layout(entries({**perceptron(["0", "3"], ["1"]), "1.bias": (4,)}), "rmsnorm")


def test_a_checkpoint_without_a_weight_matrix() -> None:
    with pytest.raises(MismatchError, match="no weight matrix"):
        read_layout(entries({"norm.weight": (4,)}), "none")
