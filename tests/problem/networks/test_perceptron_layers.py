import pytest

from fromage_cli.checkpoints import TensorEntry
from fromage_cli.errors import MismatchError
from fromage_cli.problem.networks.perceptron_layers import LinearLayer, NormLayer, read_layers


def entries(shapes: dict[str, tuple[int, ...]], dtype: str = "float32") -> dict[str, TensorEntry]:
    return {name: TensorEntry(name, dtype, shape) for name, shape in shapes.items()}


def test_tensors_form_linear_and_norm_layers() -> None:
    statistics = {f"1.{leaf}": (4,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    shapes = {"0.weight": (4, 3), "0.bias": (4,), **statistics, "1.num_batches_tracked": (), "2.weight": (2, 4)}
    linears, norms = read_layers(entries(shapes))
    assert linears == [LinearLayer("0", 3, 4, True), LinearLayer("2", 4, 2, False)]
    leaves = frozenset(("weight", "bias", "running_mean", "running_var", "num_batches_tracked"))
    assert norms == [NormLayer("1", 4, leaves)]


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"conv1.weight": (8, 3, 3, 3)}, r"'conv1.weight' has 4 dimensions \(a convolution\?\)"),
        ({"weight": (2, 3)}, "'weight' has no layer name"),
        ({"rnn.weight_ih_l0": (8, 3)}, "'rnn.weight_ih_l0' .* is neither a weight nor a bias"),
        ({"scale.weight": ()}, "neither a weight nor a bias"),
        ({"wte.weight": (8, 3)}, "like an embedding"),
        ({"tok_emb.weight": (8, 3)}, "like an embedding"),
        ({"0.weight": (4, 3), "0.bias": (3,)}, r"'0.bias' has shape \[3\]"),
        ({"0.weight": (4, 3), "0.running_mean": (4,)}, "'0.running_mean' does not belong"),
        ({"0.bias": (4,)}, r"tensors of '0' \(bias\)"),
        ({"0.weight": (4,), "0.bias": (3,)}, "are neither a linear nor a norm layer"),
    ],
)
def test_what_belongs_to_neither_is_named(shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(MismatchError, match=f"only if it is a plain perceptron: .*{words}") as caught:
        read_layers(entries(shapes))
    assert "--model" in caught.value.hint


def test_quantised_weights_are_refused() -> None:
    with pytest.raises(MismatchError, match=r"type int8 \(quantised\?\)"):
        read_layers(entries({"0.weight": (4, 3)}, "int8"))
