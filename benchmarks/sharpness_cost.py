"""What the largest Hessian eigenvalue costs, beside scipy's `eigsh` through curvlinops and beside PyHessian.

    python -m pip install -c constraints.txt 'fromage-diag[bench]' && python benchmarks/sharpness_cost.py [--quick]

Three networks with a few steps of training behind them: an MLP, a convolutional network whose BatchNorm takes the
statistics of the batch, and a GPT, of about two million parameters each (`--quick`: a tenth). The truth is what `eigsh`
finds at its default tolerance, machine precision. Products: ours until the residual is 1e-3 of the value, over those of
`eigsh`; goal at most 0.6. Time: processor seconds of one thread, ours over PyHessian's with its tolerance lowered by
tens until its error is no larger than ours, both with their graphs, taken in turns; goal at most 1. Beside it stands
what PyHessian takes until its error is 1e-3.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fromage_cli.missing import found_of
from fromage_cli.probes.curvature.lanczos import Spectrum, largest_eigenvalues
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, hessian
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.losses import resolve_loss

ERROR = 1e-3
"""Relative error, or residual, that is asked of everybody."""
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
"""PyHessian's, from its default down."""
ROUNDING = 1e-5
"""Relative error below which float32 products of two million entries do not tell anybody's error."""
TRAINING_STEPS = 20


class Block(nn.Module):
    """One transformer block, normalised before each part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norms = heads, nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.input, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Causal attention and a perceptron, each added to its input."""
        rows, length, width = x.shape
        parts = self.input(self.norms[0](x)).view(rows, length, 3, self.heads, width // self.heads)
        attended = nn.functional.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4), is_causal=True)
        x = x + self.output(attended.transpose(1, 2).reshape(rows, length, width))
        return x + self.mlp(self.norms[1](x))


class GPT(nn.Module):
    """A small language model; logits of all places, one below the other."""

    def __init__(self, width: int, blocks: int, tokens: int, length: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width, 4) for _ in range(blocks)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, length] -> [rows * length, tokens]."""
        embedded = self.token(x) + self.place(torch.arange(x.shape[1]))
        return self.head(self.norm(self.blocks(embedded))).flatten(0, 1)


def perceptron(quick: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """784 inputs, two hidden layers, 10 classes that a linear map of the inputs decides."""
    width = 200 if quick else 1000
    layers = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
    x = torch.randn(256, 784)
    return nn.Sequential(*layers), x, (x @ torch.randn(784, 10)).argmax(1)


def convolutional(quick: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """Five convolutions, each before BatchNorm in training behaviour; colour images of 16 x 16."""
    widths = (3, 16, 32, 48, 64, 64) if quick else (3, 64, 128, 224, 320, 320)
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs, track_running_stats=False),
            nn.ReLU(),
        ]
        layers += [nn.MaxPool2d(2)] if index < 3 else []
    x = torch.randn(48, 3, 16, 16)
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))
    return network, x, (x.flatten(1) @ torch.randn(768, 10)).argmax(1)


def language_model(quick: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """Tokens that follow each other by a fixed rule with noise."""
    model = GPT(64 if quick else 160, 4 if quick else 6, 256, 32)
    x = torch.cumsum(torch.randint(1, 5, (16, 33)), 1) % 256
    return model, x[:, :-1], x[:, 1:].flatten()


NETWORKS = {"MLP": perceptron, "CNN, BatchNorm": convolutional, "GPT": language_model}


@dataclass(frozen=True)
class Found:
    """An eigenvalue and what it took."""

    value: float
    products: int
    seconds: float


def trained(make: Callable[[bool], tuple[nn.Module, Tensor, Tensor]], quick: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """A network after a few steps, so that its curvature is not that of chance alone."""
    torch.manual_seed(0)
    model, x, y = make(quick)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    for _ in range(TRAINING_STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return model, x, y


def ours(model: nn.Module, x: Tensor, y: Tensor) -> Found:
    """As `sharpness` does it, from the graph to the residual."""
    batch = as_batch({"x": x, "y": y.view(x.shape[0], -1).squeeze(1)}, "rows")
    problem = Problem(model, resolve_loss("cross-entropy", model, batch), batch)
    problem.base  # noqa: B018  # which tensors receive a gradient
    space = WeightSpace(problem.receiving)

    def run() -> Spectrum:
        with hessian(problem, space) as product:
            return found_of(largest_eigenvalues(product, space.flat(space.weights), tolerance=ERROR))[0]

    started = time.process_time()
    spectrum = run()
    return Found(spectrum.eigenvalues[0].value, spectrum.products, time.process_time() - started)


def eigsh(model: nn.Module, x: Tensor, y: Tensor) -> Found:
    """scipy's, at its defaults but for the end of the spectrum, through curvlinops."""
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator
    from scipy.sparse.linalg import eigsh as scipy_eigsh

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    operator = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False
    ).to_scipy()
    made = []

    def counted(vector: object) -> object:
        made.append(1)
        return operator @ vector

    started = time.process_time()
    torch.manual_seed(0)
    (value,), _ = scipy_eigsh(LinearOperator(operator.shape, counted, dtype=operator.dtype), k=1, which="LA")
    return Found(float(value), len(made), time.process_time() - started)


def pyhessian(model: nn.Module, x: Tensor, y: Tensor, tolerance: float) -> Found:
    """Power iteration on a graph that is kept, until two values in a row agree."""
    from pyhessian import hessian as power

    torch.manual_seed(1)
    started = time.process_time()
    values, _ = power(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False).eigenvalues(maxIter=2000, tol=tolerance)
    seconds = time.process_time() - started
    model.zero_grad(set_to_none=True)
    return Found(values[0], 0, seconds)


def compare(name: str, quick: bool, rounds: int) -> None:
    """Prints one network's lines."""
    model, x, y = trained(NETWORKS[name], quick)
    size = sum(parameter.numel() for parameter in model.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        truth = eigsh(model, x, y)

        def error(found: Found) -> float:
            return abs(found.value - truth.value) / abs(truth.value)

        def tolerance(wanted: float) -> float:
            return next((t for t in TOLERANCES if error(pyhessian(model, x, y, t)) <= wanted), TOLERANCES[-1])

        ours(model, x, y)  # what is loaded on first use does not count
        same, rough = tolerance(max(error(ours(model, x, y)), ROUNDING)), tolerance(ERROR)
        turns = [
            (ours(model, x, y), pyhessian(model, x, y, same), pyhessian(model, x, y, rough)) for _ in range(rounds)
        ]
    mine, theirs, theirs_rough = (min(run.seconds for run in runs) for runs in zip(*turns, strict=True))
    found, other, rougher = turns[0]
    print(f"{name}: {size} parameters, largest eigenvalue {truth.value:.6g}")
    print(f"  ours       {found.products:4d} products  {mine:7.2f} s  error {error(found):.1e}")
    print(f"  eigsh      {truth.products:4d} products  {truth.seconds:7.2f} s")
    print(f"  PyHessian  tolerance {same:g}  {theirs:7.2f} s  error {error(other):.1e}")
    print(f"  PyHessian  tolerance {rough:g}  {theirs_rough:7.2f} s  error {error(rougher):.1e}")
    print(f"  products / eigsh {found.products / truth.products:.2f} (goal 0.60)", end="; ")
    print(f"time / PyHessian {mine / theirs:.2f} (goal 1.00), to 1e-3 {mine / theirs_rough:.2f}", flush=True)


def main() -> None:
    """Prints what each network took, and both ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="networks of a tenth of the size, one round")
    parser.add_argument("--only", choices=NETWORKS, help="one of the networks")
    arguments = parser.parse_args()
    try:
        import curvlinops  # noqa: F401
        import pyhessian  # noqa: F401
        import scipy  # noqa: F401
    except ImportError as missing:
        parser.exit(
            2, f"{missing}: install the extra: python -m pip install -c constraints.txt 'fromage-diag[bench]'\n"
        )
    torch.set_num_threads(1)
    for name in [arguments.only] if arguments.only else NETWORKS:
        compare(name, arguments.quick, 1 if arguments.quick else 3)


if __name__ == "__main__":
    main()
