"""A zoo of small blocks of which it is known by construction what is scale-invariant."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from fromage_cli.missing import Interrupted
from fromage_cli.probes.structure.invariance import LayerInvariance, measure_invariance
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
DRAWS = [(12, 1.0, 32), (24, 3.0, 16), (8, 10.0, 64), (36, 2.0, 24)]
"""Width, scale of the inputs, rows."""
NONE = ("none", None)


class Mean(nn.Module):
    """The mean over everything but rows and the last features (sequences) or the channels (images)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.dim() == 4 else x.mean(1)


class Residual(nn.Module):
    """norm(x + inner(x))."""

    def __init__(self, inner: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.inner, self.norm = inner, norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.inner(x))


class PreNorm(nn.Module):
    """x + mlp(norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.first, self.last = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(functional.gelu(self.first(self.norm(x))))


class Attention(nn.Module):
    """Attention over normalised queries and keys, each head's own or all heads' together."""

    def __init__(self, width: int, *, per_head: bool, bias: bool = False, norm: bool = True) -> None:
        super().__init__()
        self.num_heads, self.per_head = 4, per_head
        self.q, self.k = nn.Linear(width, width, bias=bias), nn.Linear(width, width, bias=bias)
        self.v, self.out = nn.Linear(width, width), nn.Linear(width, width)
        size = width // self.num_heads if per_head else width
        self.norms = nn.ModuleList(nn.RMSNorm(size) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)

        q, k = (
            norm(heads(y)) if self.per_head else heads(norm(y))
            for norm, y in zip(self.norms, (self.q(x), self.k(x)), strict=True)
        )
        mixed = functional.scaled_dot_product_attention(q, k, heads(self.v(x)))
        return self.out(mixed.transpose(-2, -3).flatten(-2))


class ResidualBlock(nn.Module):
    """relu(x + BatchNorm(conv(relu(BatchNorm(conv(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.norms[0](self.convs[0](x)))
        return functional.relu(x + self.norms[1](self.convs[1](hidden)))


class Tied(nn.Module):
    """One matrix in two places, with a norm behind both or behind the first alone."""

    def __init__(self, width: int, *, both: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.last.weight = self.first.weight
        self.norms = nn.ModuleList((nn.LayerNorm(width), nn.LayerNorm(width) if both else nn.Identity()))

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[1](self.last(torch.tanh(self.norms[0](self.first(x)))))


class StandardisedConv(nn.Conv2d):
    """Weight standardisation: each filter less its mean, over its deviation."""

    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return functional.conv2d(x, (self.weight - mean) / deviation, self.bias, padding=1)


class CosineHead(nn.Module):
    """Cosines between features and rows of weights, as of a normalised softmax."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, width))

    def forward(self, x: Tensor) -> Tensor:
        return 8 * functional.linear(functional.normalize(x, dim=-1), functional.normalize(self.weight, dim=-1))


@dataclass
class Specimen:
    """A network, its inputs and the truth about its layers."""

    model: nn.Module
    x: Tensor
    truth: dict[str, tuple[str, str | None]]
    dead: dict[str, bool] = field(default_factory=dict)
    evaluation: dict[str, tuple[str, str | None]] | None = None
    """What is otherwise in evaluation behaviour."""


def specimen(kind: str, width: int, scale: float, rows: int) -> Specimen:  # noqa: PLR0911, PLR0912, PLR0915
    images, rows_of_ten = torch.randn(rows, 3, 8, 8) * scale, torch.randn(rows, 10) * scale
    sequences, head = torch.randn(rows, 6, width) * scale, nn.Linear(width, 5)

    def conv(bias: bool) -> nn.Conv2d:
        return nn.Conv2d(3, width, 3, padding=1, bias=bias)

    def images_through(first: nn.Module, *rest: nn.Module) -> nn.Module:
        return nn.Sequential(first, *rest, nn.Tanh(), Mean(), head)

    def first(verdict: str, granularity: str | None, name: str = "0.weight") -> dict[str, tuple[str, str | None]]:
        return {name: (verdict, granularity)}

    match kind:
        case "conv before BatchNorm":
            model = images_through(conv(False), nn.BatchNorm2d(width))
            return Specimen(model, images, first("invariant", "channel"), {}, {"0.weight": NONE})
        case "conv with bias before BatchNorm":
            model = images_through(conv(True), nn.BatchNorm2d(width))
            return Specimen(model, images, first("invariant", "channel"), {"0.weight": True}, {"0.weight": NONE})
        case "conv with bias and ReLU before BatchNorm":
            model = images_through(conv(True), nn.ReLU(), nn.BatchNorm2d(width))
            return Specimen(model, images, first("invariant", "joint"), {"0.weight": False}, {"0.weight": NONE})
        case "transposed conv before BatchNorm":
            model = images_through(nn.ConvTranspose2d(3, width, 3, bias=False), nn.BatchNorm2d(width))
            return Specimen(model, images, first("invariant", "channel"), {}, {"0.weight": NONE})
        case "linear with bias before BatchNorm":
            model = nn.Sequential(nn.Linear(10, width), nn.BatchNorm1d(width), nn.Tanh(), head)
            return Specimen(model, rows_of_ten, first("invariant", "channel"), {"0.weight": True}, {"0.weight": NONE})
        case "linear before LayerNorm":
            model = nn.Sequential(nn.Linear(10, width, bias=False), nn.LayerNorm(width), nn.Tanh(), head)
            return Specimen(model, rows_of_ten, first("invariant", "tensor"))
        case "linear with bias before LayerNorm":
            model = nn.Sequential(nn.Linear(10, width), nn.LayerNorm(width), nn.Tanh(), head)
            return Specimen(model, rows_of_ten, first("invariant", "joint"), {"0.weight": False})
        case "linear behind LayerNorm":
            model = nn.Sequential(nn.LayerNorm(10), nn.Linear(10, width), nn.Tanh(), head)
            return Specimen(model, rows_of_ten, {"1.weight": NONE}, {"1.weight": False})
        case "linear before RMSNorm":
            model = nn.Sequential(nn.Linear(10, width, bias=False), nn.RMSNorm(width), nn.Tanh(), head)
            return Specimen(model, rows_of_ten, first("invariant", "tensor"))
        case "weight norm of a linear":
            model = nn.Sequential(weight_norm(nn.Linear(10, width)), nn.Tanh(), head)
            own = "0.parametrizations.weight.original"
            return Specimen(model, rows_of_ten, {f"{own}0": NONE, f"{own}1": ("invariant", "channel")})
        case "weight norm of a conv":
            model = images_through(weight_norm(conv(True)))
            own = "0.parametrizations.weight.original"
            return Specimen(model, images, {f"{own}0": NONE, f"{own}1": ("invariant", "channel")})
        case "spectral norm":
            model = nn.Sequential(spectral_norm(nn.Linear(10, width)), nn.Tanh(), head)
            return Specimen(model, rows_of_ten, first("invariant", "tensor", "0.parametrizations.weight.original"))
        case "conv before GroupNorm":
            return Specimen(images_through(conv(False), nn.GroupNorm(4, width)), images, first("invariant", "group"))
        case "conv with bias before GroupNorm":
            model = images_through(conv(True), nn.GroupNorm(4, width))
            return Specimen(model, images, first("invariant", "joint"), {"0.weight": False})
        case "conv with bias before InstanceNorm":
            model = images_through(conv(True), nn.InstanceNorm2d(width))
            return Specimen(model, images, first("invariant", "channel"), {"0.weight": True})
        case "queries and keys normalised per head":
            model = nn.Sequential(Attention(width, per_head=True), Mean(), head)
            truth = {"0.q.weight": ("invariant", "head"), "0.k.weight": ("invariant", "head")}
            return Specimen(model, sequences, truth | {"0.v.weight": NONE, "0.out.weight": NONE})
        case "queries and keys normalised whole":
            model = nn.Sequential(Attention(width, per_head=False), Mean(), head)
            truth = {"0.q.weight": ("invariant", "tensor"), "0.k.weight": ("invariant", "tensor")}
            return Specimen(model, sequences, truth | {"0.v.weight": NONE, "0.out.weight": NONE})
        case "queries and keys with bias normalised per head":
            model = nn.Sequential(Attention(width, per_head=True, bias=True), Mean(), head)
            truth = {"0.q.weight": ("invariant", "joint"), "0.k.weight": ("invariant", "joint")}
            return Specimen(model, sequences, truth | {"0.v.weight": NONE, "0.out.weight": NONE})
        case "block with LayerNorm in front":
            model = nn.Sequential(PreNorm(width), nn.LayerNorm(width), Mean(), head)
            return Specimen(model, sequences, {"0.first.weight": NONE, "0.last.weight": NONE})
        case "residual added before the norm":
            model = nn.Sequential(
                Residual(nn.Linear(width, width, bias=False), nn.LayerNorm(width)), nn.Tanh(), Mean(), head
            )
            return Specimen(model, sequences, {"0.inner.weight": NONE})
        case "residual block with BatchNorm":
            model = images_through(conv(True), ResidualBlock(width))
            convs = {f"1.convs.{place}.weight": ("invariant", "channel") for place in range(2)}
            return Specimen(model, images, {"0.weight": NONE} | convs, {}, dict.fromkeys(("0.weight", *convs), NONE))
        case "conv for each channel before BatchNorm":
            alone = nn.Conv2d(width, width, 3, groups=width, bias=False)
            model = images_through(conv(True), nn.Tanh(), alone, nn.BatchNorm2d(width))
            truth = {"0.weight": NONE, "2.weight": ("invariant", "channel")}
            return Specimen(model, images, truth, {}, dict.fromkeys(truth, NONE))
        case "tied matrix before two norms":
            model = nn.Sequential(Tied(width, both=True), nn.Tanh(), Mean(), head)
            return Specimen(model, sequences, first("invariant", "tensor", "0.first.weight"))
        case "tied matrix before one norm":
            model = nn.Sequential(Tied(width, both=False), nn.Tanh(), Mean(), head)
            return Specimen(model, sequences, first("none", None, "0.first.weight"))
        case "weight standardisation":
            model = images_through(StandardisedConv(3, width, 3))
            return Specimen(model, images, first("invariant", "channel"), {"0.weight": False})
        case "cosines with rows":
            model = nn.Sequential(nn.Linear(10, width), nn.Tanh(), CosineHead(width), nn.Tanh(), nn.Linear(5, 5))
            return Specimen(model, rows_of_ten, {"0.weight": NONE, "2.weight": ("invariant", "channel")})
        case "plain conv":
            return Specimen(images_through(conv(False), nn.ReLU()), images, {"0.weight": NONE})
    raise AssertionError(kind)


KINDS = [
    "conv before BatchNorm",
    "conv with bias before BatchNorm",
    "conv with bias and ReLU before BatchNorm",
    "transposed conv before BatchNorm",
    "linear with bias before BatchNorm",
    "linear before LayerNorm",
    "linear with bias before LayerNorm",
    "linear behind LayerNorm",
    "linear before RMSNorm",
    "weight norm of a linear",
    "weight norm of a conv",
    "spectral norm",
    "conv before GroupNorm",
    "conv with bias before GroupNorm",
    "conv with bias before InstanceNorm",
    "queries and keys normalised per head",
    "queries and keys normalised whole",
    "queries and keys with bias normalised per head",
    "block with LayerNorm in front",
    "residual added before the norm",
    "residual block with BatchNorm",
    "conv for each channel before BatchNorm",
    "tied matrix before two norms",
    "tied matrix before one norm",
    "weight standardisation",
    "cosines with rows",
    "plain conv",
]


def problem_of(make_problem: Maker, model: nn.Module, x: Tensor, **settings: object) -> Problem:
    """Cross-entropy over five classes; vectors as after some training: neither ones nor zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return make_problem(model, {"x": x, "y": torch.randint(5, (len(x),))}, **settings)


@pytest.mark.parametrize("mode", ["auto", "train", "eval"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_zoo_without_one_error(make_problem: Maker, kind: str, mode: str) -> None:
    for seed, draw in enumerate(DRAWS):
        torch.manual_seed(seed)
        known = specimen(kind, *draw)
        found = measure_invariance(problem_of(make_problem, known.model, known.x, mode=mode, seed=seed))
        truth = known.evaluation if mode == "eval" and known.evaluation is not None else known.truth
        verdicts = {name: (found[name].invariance.verdict, found[name].invariance.granularity) for name in truth}
        assert verdicts == truth, draw
        assert next(reversed(found.values())).invariance.verdict == "none"  # the output layer
        if mode != "eval":
            assert {name: found[name].dead_bias for name in known.dead} == known.dead, draw


@pytest.mark.parametrize("kind", KINDS)
def test_the_zoo_in_float64(make_problem: Maker, kind: str) -> None:
    torch.manual_seed(7)
    known = specimen(kind, 16, 1.0, 12)
    found = measure_invariance(problem_of(make_problem, known.model.double(), known.x.double()))
    assert {name: (found[name].invariance.verdict, found[name].invariance.granularity) for name in known.truth} == (
        known.truth
    )


def first_of(test: dict[str, LayerInvariance], name: str = "0.weight"):
    return test[name].invariance


@pytest.mark.parametrize(
    ("share", "verdict"), [(1e-5, "invariant"), (0.01, "eps-limited"), (0.05, "eps-limited"), (1.0, "none")]
)
def test_what_an_epsilon_leaves(make_problem: Maker, share: float, verdict: str) -> None:
    """The norm divides by √(v + ε), so that cW gives c√((v + ε) / (c²v + ε)) times what W gives."""
    torch.manual_seed(0)
    linear, x = nn.Linear(10, 40, bias=False), torch.randn(32, 10)
    hidden = linear(x).detach().double()
    hidden -= hidden.mean(1, keepdim=True)
    variances = hidden.square().mean(1, keepdim=True)  # (rows, 1)
    epsilon = share * float(variances.mean())

    def response(factor: float) -> float:
        whole = hidden / (variances + epsilon).sqrt()
        return float((factor * hidden / (factor**2 * variances + epsilon).sqrt() - whole).norm() / whole.norm())

    model = nn.Sequential(linear, nn.LayerNorm(40, eps=epsilon, elementwise_affine=False))
    found = first_of(measure_invariance(make_problem(model, {"x": x, "y": torch.randn(32, 40)})))
    assert found.verdict == verdict
    assert found.response_double == pytest.approx(response(2.0), rel=2e-2)
    assert found.response_half == pytest.approx(response(0.5), rel=2e-2)


def test_saturation_is_no_epsilon(make_problem: Maker) -> None:
    for scale in (3.0, 6.0, 12.0, 30.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 16, bias=False), nn.Tanh(), nn.Linear(16, 5))
        found = first_of(measure_invariance(problem_of(make_problem, model, scale * torch.randn(64, 10))))
        assert found.verdict in ("none", "approximate")


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Sigmoid()], ids=str)
def test_what_does_not_feel_that_it_is_doubled_may_feel_its_scale(make_problem: Maker, activation: nn.Module) -> None:
    """tanh is at its ends, so that doubling does nothing; the little gradient that is left points along the weights."""
    model = nn.Sequential(nn.Linear(1, 3, bias=False), activation, nn.Linear(3, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.1], [-1.2]]))
        model[2].weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, 1.0]]))
    x = torch.linspace(6.0, 12.0, 16, dtype=torch.float64)[:, None]
    found = first_of(measure_invariance(make_problem(model, {"x": x, "y": torch.arange(16) % 2})))
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), torch.arange(16) % 2), [model[0].weight])
    cosine = float(functional.cosine_similarity(gradient.flatten(), model[0].weight.detach().flatten(), dim=0).abs())
    assert found.cosine == pytest.approx(cosine) and cosine > 0.05
    assert found.response_double < 0.02 and found.response_half < 0.1
    assert found.verdict == "none"


def test_a_branch_that_hardly_matters_is_not_invariant(make_problem: Maker) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(10, 10), nn.Linear(10, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + 1e-4 * self.inner(x))

    torch.manual_seed(0)
    found = first_of(measure_invariance(problem_of(make_problem, Small(), torch.randn(64, 10))), "inner.weight")
    assert (found.verdict, found.response_double is not None and found.response_double < 1e-3) == ("none", True)


def test_without_influence_nothing_is_said(make_problem: Maker) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 5))
    with torch.no_grad():
        model[0].bias.fill_(-1e3)  # no unit ever fires
    found = measure_invariance(make_problem(model, {"x": torch.randn(32, 10), "y": torch.randint(5, (32,))}))
    assert found["0.weight"].invariance.verdict == "untested" and found["0.weight"].dead_bias is None
    with torch.no_grad():
        model[2].weight.zero_()
    found = measure_invariance(make_problem(model, {"x": torch.randn(32, 10), "y": torch.randint(5, (32,))}))
    assert found["2.weight"].invariance.verdict == "untested"


def test_a_loss_that_normalises_for_itself(make_problem: Maker) -> None:
    """Cosine similarity: the outputs move with the scale, the loss does not."""

    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Linear(10, 6, bias=False)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            features = self.encode(x)
            return {"features": features, "loss": 1 - functional.cosine_similarity(features, y, eps=0).mean()}

    torch.manual_seed(0)
    problem = make_problem(Cosine(), {"x": torch.randn(32, 10), "y": torch.randn(32, 6)})
    found = first_of(measure_invariance(problem), "encode.weight")
    assert (found.verdict, found.granularity) == ("invariant", "tensor")
    assert found.response_double is not None and found.response_double < 1e-6


def test_outputs_that_the_loss_leaves_alone_do_not_count(make_problem: Maker) -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm, self.head = nn.Linear(10, 8, bias=False), nn.LayerNorm(8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.linear(x)
            return self.head(self.norm(hidden)), hidden

    torch.manual_seed(0)
    found = first_of(measure_invariance(problem_of(make_problem, Cached(), torch.randn(32, 10))), "linear.weight")
    assert (found.verdict, found.granularity) == ("invariant", "tensor")


def test_rows_of_an_embedding_before_layer_norm(make_problem: Maker) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 12), nn.LayerNorm(12), Mean(), nn.Linear(12, 5))
    found = first_of(measure_invariance(problem_of(make_problem, model, torch.randint(20, (32, 6)))))
    assert (found.verdict, found.granularity, found.parts, found.axis) == ("invariant", "channel", 20, 0)


def test_parts_and_their_dimension(make_problem: Maker) -> None:
    torch.manual_seed(0)
    known = specimen("queries and keys normalised per head", 12, 1.0, 32)
    found = first_of(measure_invariance(problem_of(make_problem, known.model, known.x)), "0.q.weight")
    assert (found.parts, found.axis) == (4, 0) and found.part_cosine is not None and found.part_cosine < 1e-4
    known = specimen("transposed conv before BatchNorm", 12, 1.0, 32)
    found = first_of(measure_invariance(problem_of(make_problem, known.model, known.x)))
    assert (found.parts, found.axis) == (12, 1)


def test_the_bias_of_keys_is_dead(make_problem: Maker) -> None:
    """Softmax takes away what is added to all of a query's products alike."""
    torch.manual_seed(0)
    model = nn.Sequential(Attention(12, per_head=True, bias=True, norm=False), Mean(), nn.Linear(12, 5))
    found = measure_invariance(problem_of(make_problem, model, torch.randn(32, 6, 12)))
    assert [found[f"0.{name}.weight"].dead_bias for name in ("q", "k", "v")] == [False, True, False]


def test_weights_are_put_back_and_evaluations_counted(make_problem: Maker) -> None:
    torch.manual_seed(0)
    known = specimen("conv with bias before BatchNorm", 12, 1.0, 32)
    problem = problem_of(make_problem, known.model, known.x)
    before = {name: value.clone() for name, value in known.model.state_dict().items()}
    calls: list[int] = []
    measure_invariance(problem, ["0.weight"], lambda: calls.append(1))
    assert problem.evaluations.doing == "testing which layers are scale-invariant, 1 of 1"
    after = known.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert (problem.evaluations.gradients, len(calls)) == (1, 1)
    assert 5 <= problem.evaluations.forwards <= 10


def test_a_limit_leaves_what_was_reached(make_problem: Maker) -> None:
    torch.manual_seed(0)
    known = specimen("linear before LayerNorm", 12, 1.0, 32)
    problem = problem_of(make_problem, known.model, known.x)

    def stop() -> None:
        problem.budget = Budget(seconds=0.0, started=0.0)

    found = measure_invariance(problem, advance=stop)
    assert isinstance(found, Interrupted) and list(found.found) == ["0.weight"]


def test_micro_batches_see_the_same(make_problem: Maker) -> None:
    torch.manual_seed(0)
    known = specimen("linear with bias before LayerNorm", 12, 1.0, 32)
    found = first_of(measure_invariance(problem_of(make_problem, known.model, known.x, micro_batch=8)))
    assert (found.verdict, found.granularity) == ("invariant", "joint")


def test_a_scripted_network(make_problem: Maker) -> None:
    torch.manual_seed(0)
    with pytest.warns(DeprecationWarning):
        model = torch.jit.script(nn.Sequential(nn.Linear(10, 8, bias=False), nn.LayerNorm(8), nn.Linear(8, 5)))
    found = first_of(measure_invariance(problem_of(make_problem, model, torch.randn(32, 10))))
    assert (found.verdict, found.granularity) == ("invariant", "tensor")
