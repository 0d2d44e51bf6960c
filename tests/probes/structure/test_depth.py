from collections.abc import Callable

import pytest
import torch
from torch import nn

from fromage_cli.probes.structure.depth import Depth, measure_depth
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


def depth_of(make_problem: Maker, model: nn.Module, *shape: int, loss: str = "output") -> Depth:
    class Total(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x).square().mean()

    torch.manual_seed(0)
    return measure_depth(make_problem(Total(), {"x": torch.randn(*shape)}, loss))


def perceptron(depth: int) -> nn.Module:
    layers = [layer for _ in range(depth - 1) for layer in (nn.Linear(5, 5), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(5, 5))


class Residual(nn.Module):
    """x + scale * f(x)."""

    def __init__(self, branch: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.branch, self.scale = branch, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.branch(x)


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_the_three_depths_of_a_perceptron_agree(make_problem: Maker, depth: int) -> None:
    assert depth_of(make_problem, perceptron(depth), 4, 5) == Depth(depth, depth, depth)


def test_a_convolution_with_normalisation_counts_its_kernel_once(make_problem: Maker) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2))
    assert depth_of(make_problem, model, 4, 2, 4, 4) == Depth(2, 2, 2.0)


def test_a_residual_branch_counts_by_its_share_of_the_sum(make_problem: Maker) -> None:
    torch.manual_seed(3)
    branch = perceptron(2)
    model = nn.Sequential(nn.Linear(5, 5), Residual(branch), nn.Linear(5, 5))
    depth = depth_of(make_problem, model, 64, 5)
    torch.manual_seed(0)
    x = torch.randn(64, 5)
    with torch.no_grad():
        hidden = model[0](x)
        share = float(branch(hidden).norm() / (hidden + branch(hidden)).norm())
    assert (depth.count, depth.path) == (4, 4)
    assert depth.effective == pytest.approx(2 + 2 * share, rel=1e-5)


def test_a_branch_scaled_to_nothing_adds_no_depth(make_problem: Maker) -> None:
    model = nn.Sequential(nn.Linear(5, 5), *(Residual(perceptron(2), 1e-6) for _ in range(5)))
    depth = depth_of(make_problem, model, 16, 5)
    assert depth.path == 11
    assert depth.effective == pytest.approx(1.0, abs=1e-3)


def test_an_in_place_sum_is_a_residual_branch_too(make_problem: Maker) -> None:
    class InPlace(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.branch(x)
            out += x
            return out

    torch.manual_seed(1)
    branch = perceptron(3)
    expected = depth_of(make_problem, nn.Sequential(nn.Linear(5, 5), Residual(branch)), 8, 5)
    torch.manual_seed(1)
    found = depth_of(make_problem, nn.Sequential(nn.Linear(5, 5), InPlace(perceptron(3))), 8, 5)
    assert found.path == expected.path == 4
    assert found.effective is not None
    assert 1 < found.effective < 5


def test_parallel_branches_are_as_deep_as_the_deeper(make_problem: Maker) -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.long, self.short = perceptron(3), perceptron(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.long(x), self.short(x)], dim=1)

    assert depth_of(make_problem, Parallel(), 4, 5) == Depth(4, 3, 3.0)


def test_an_embedding_counts_and_so_does_its_second_use(make_problem: Maker) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.hidden = nn.Embedding(7, 5), nn.Linear(5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.hidden(self.embedding(x))) @ self.embedding.weight.T

    tokens = {"x": torch.randint(7, (3, 4)), "y": torch.randint(7, (3, 4))}
    assert measure_depth(make_problem(Tied(), tokens)) == Depth(2, 3, 3.0)


def test_position_embeddings_lie_beside_the_path(make_problem: Maker) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(7, 5), nn.Parameter(torch.randn(4, 5))
            self.output = nn.Linear(5, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.output(self.tokens(x) + self.positions)

    tokens = {"x": torch.randint(7, (3, 4)), "y": torch.randint(7, (3, 4))}
    assert measure_depth(make_problem(Positions(), tokens)) == Depth(3, 2, 2.0)


def test_one_hot_inputs_of_whole_numbers_are_data(make_problem: Maker) -> None:
    class OneHot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(7, 5), nn.Linear(5, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.relu(self.first(nn.functional.one_hot(x, 7).float())))

    tokens = {"x": torch.randint(7, (9,)), "y": torch.randint(7, (9,))}
    assert measure_depth(make_problem(OneHot(), tokens)) == Depth(2, 2, 2.0)


@pytest.mark.parametrize(
    "wrap", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm], ids=["weight", "spectral"]
)
def test_a_parametrized_matrix_is_one_deep(make_problem: Maker, wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(wrap(nn.Linear(5, 5)), nn.ReLU(), wrap(nn.Linear(5, 5)))
    assert depth_of(make_problem, model, 4, 5).path == 2


def test_a_product_of_weights_counts_each(make_problem: Maker) -> None:
    class Factored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 5))
            self.whole, self.output = nn.Parameter(torch.randn(5, 5)), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.output(x @ torch.addmm(self.whole, self.left, self.right))

    class Twice(Factored):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.output(x @ (self.left @ self.right @ self.whole))

    assert depth_of(make_problem, Factored(), 4, 5) == Depth(4, 3, 3.0)
    assert depth_of(make_problem, Twice(), 4, 5) == Depth(4, 4, 4.0)


def test_features_of_hidden_inputs_leave_the_depth_open(make_problem: Maker) -> None:
    class Graph(nn.Module):
        """Nodes are looked up; their distances are the model's own, through a basis that is learned."""

        def __init__(self) -> None:
            super().__init__()
            self.nodes, self.frequencies = nn.Embedding(5, 4), nn.Parameter(torch.ones(4))
            self.edges, self.output = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            distances = torch.arange(float(len(x)))[:, None]
            return self.output(self.nodes(x) * self.edges(torch.sin(distances * self.frequencies)))

    problem = make_problem(Graph(), {"x": torch.randint(5, (6,)), "y": torch.randint(3, (6,))})
    assert measure_depth(problem) == Depth(3, None, None)


def test_attention_is_as_deep_as_its_projections(make_problem: Maker) -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.attention(x, x, x, need_weights=False)[0]

    depth = depth_of(make_problem, Attend(), 3, 4, 6)
    assert (depth.count, depth.path) == (2, 2)
    assert depth.effective is not None
    assert 0 < depth.effective < 2


def test_a_recurrence_is_as_deep_as_it_is_long(make_problem: Maker) -> None:
    class Recurrence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(5, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(x)[0][:, -1]

    depth = depth_of(make_problem, Recurrence(), 3, 6, 5)
    assert depth.count == 2
    assert depth.path == 6  # one input product, then five recurrent ones


def test_one_unknown_share_makes_the_effective_depth_unknown_in_any_order(make_problem: Maker) -> None:
    class Unrolled(nn.Module):
        def __init__(self, reverse: bool) -> None:
            super().__init__()
            self.cell, self.reverse = nn.RNNCell(5, 4), reverse

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.cell(x)
            states = [first, self.cell(x, first)]  # the second sum, inside the cell, is not seen
            return torch.cat(states[::-1] if self.reverse else states)

    for reverse in (False, True):
        assert depth_of(make_problem, Unrolled(reverse), 3, 5) == Depth(2, 2, None)


def test_recomputed_blocks_hide_their_depth(make_problem: Maker) -> None:
    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.output = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.output(torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=True))

    depth = depth_of(make_problem, Recomputed(), 3, 5)
    assert (depth.path, depth.effective) == (None, None)


class Blocks(nn.Module):
    """x, then h + scale * F(h) in the way that `join` adds."""

    def __init__(self, join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.branch, self.join = nn.Linear(5, 5), perceptron(2), join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        return self.join(hidden, self.branch(hidden))


@pytest.mark.parametrize(
    ("join", "share"),
    [
        (lambda h, f: torch.add(h, f, alpha=1e-6), 0.0),
        (lambda h, f: h - 1e-6 * f, 0.0),
        (lambda h, f: h.detach() * 0 + h + 1e-6 * f, 0.0),
        (lambda h, f: f - 1e-6 * h, 1.0),
    ],
    ids=["alpha", "difference", "constant", "mostly branch"],
)
def test_every_way_of_adding_weighs_the_branch(
    make_problem: Maker, join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], share: float
) -> None:
    depth = depth_of(make_problem, Blocks(join), 16, 5)
    assert depth.path == 3
    assert depth.effective == pytest.approx(1 + 2 * share, abs=1e-3)


def test_a_share_is_at_most_one_where_the_terms_cancel(make_problem: Maker) -> None:
    depth = depth_of(make_problem, Blocks(lambda h, f: h + f - 2 * h.detach()), 16, 5)
    assert depth.effective is not None
    assert depth.effective <= 3


def test_a_branch_of_one_value_a_channel_counts_as_often_as_it_is_repeated(make_problem: Maker) -> None:
    shares: list[float] = []

    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.first(x)
            pooled = self.gate(hidden.mean((2, 3), keepdim=True))
            shares.append(float((pooled.expand_as(hidden).norm() / (hidden + pooled).norm()).detach()))
            return hidden + pooled

    model = Squeeze()
    depth = depth_of(make_problem, model, 4, 2, 6, 6)
    assert depth.effective == pytest.approx(1 + min(1.0, shares[-1]), rel=1e-4)


def test_experts_that_are_looked_up_are_weights_and_not_data(make_problem: Maker) -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ParameterList([torch.randn(3, 5, 5) * 0.4 for _ in range(4)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for expert in self.experts:
                x = torch.tanh(torch.bmm(x[:, None], expert[torch.arange(len(x)) % 3])[:, 0])
            return x

    assert depth_of(make_problem, Routed(), 6, 5) == Depth(4, 4, 4.0)


def test_a_constant_factor_of_a_weight_is_no_input(make_problem: Maker) -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([torch.randn(5, 5) * 0.4 for _ in range(4)])
            self.register_buffer("rotation", torch.linalg.qr(torch.randn(5, 5))[0])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for weight in self.weights:
                x = torch.tanh(x @ (self.rotation @ weight))
            return x

    assert depth_of(make_problem, Frozen(), 6, 5) == Depth(4, 4, 4.0)


def test_whole_numbers_that_are_scaled_first_leave_the_depth_open(make_problem: Maker) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.layers = nn.Parameter(torch.ones(5)), perceptron(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x.float() * self.gain)

    tokens = {"x": torch.randint(7, (9, 5)), "y": torch.randint(5, (9,))}
    depth = measure_depth(make_problem(Scaled(), tokens))
    assert (depth.count, depth.path, depth.effective) == (4, None, None)


def test_losses_of_samples_from_two_heads_count_in_full(make_problem: Maker) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.long, self.short = perceptron(6), perceptron(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.long(x).square().mean(1) + self.short(x).square().mean(1)

    assert depth_of(make_problem, Heads(), 6, 5) == Depth(7, 6, 6.0)


@pytest.mark.parametrize("first", [nn.ReLU(inplace=True), nn.Hardtanh(inplace=True)])
def test_an_input_that_is_written_in_place_is_read(make_problem: Maker, first: nn.Module) -> None:
    assert depth_of(make_problem, nn.Sequential(first, perceptron(2)), 6, 5) == Depth(2, 2, 2.0)


def test_a_loss_without_derivative_by_its_target_is_read(make_problem: Maker) -> None:
    torch.manual_seed(0)
    data = {"x": torch.randn(8, 5), "y": torch.randint(2, (8, 5)).float()}
    assert measure_depth(make_problem(perceptron(3), data, "bce")) == Depth(3, 3, 3.0)


@pytest.mark.parametrize(("kind", "path"), [(nn.RNN, 6), (nn.LSTM, 6), (nn.GRU, 7)])  # a GRU gates its first state
def test_a_recurrence_hides_its_sums(make_problem: Maker, kind: type[nn.RNNBase], path: int) -> None:
    class Recurrence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(5, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(x)[0][:, -1]

    assert depth_of(make_problem, Recurrence(), 3, 6, 5) == Depth(2, path, None)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_is_read_as_it_was_written(make_problem: Maker, backend: str) -> None:
    assert depth_of(make_problem, torch.compile(perceptron(3), backend=backend), 4, 5) == Depth(3, 3, 3.0)
