"""What each of many ranks holds and sends where weights are sharded, told without their memory.

    python benchmarks/scaling_plan.py [--ranks 64] [--lengths 128 512 2048] [--layers 80 …] [--autocast] [--recompute]

A decoder of the shape of Llama 70B is built of torch's fake tensors, which have shapes but no numbers. The program's
gradient and its Hessian-vector product run on the first of the ranks, of which each has one row of so many tokens.
torch's memory tracker counts every block of memory from its first use to its end, and collectives are counted by their
bytes. What is traced is what a processor would do: an accelerator needs one whole gradient less. Prints a Markdown
table. A gradient of 70 billion parameters takes a few minutes and 1 GB on one core, a product three times as long.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from fromage_cli import ranks
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation import problem as problems
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.evaluation.streamed_hessian import visit_hessian_vector_product
from fromage_cli.problem.losses.supervised_losses import CrossEntropy
from fromage_cli.problem.networks import sharding
from fromage_cli.problem.networks.recomputation import recompute_activations
from fromage_cli.shards import own_part

BYTES = 4
"""Of a weight, and of an activation without --autocast."""
COLLECTIVES = {
    torch.ops._c10d_functional.all_gather_into_tensor.default: "gathered",
    torch.ops.c10d._allgather_base_.default: "gathered",
    torch.ops._c10d_functional.reduce_scatter_tensor.default: "added_up",
    torch.ops.c10d._reduce_scatter_base_.default: "added_up",
    torch.ops.c10d.allreduce_.default: "added_up",
}
"""What they count as."""


@dataclass(frozen=True)
class Shape:
    """A decoder: grouped-query attention, SwiGLU, RMSNorm before each branch, an output layer of its own."""

    layers: int = 80
    width: int = 8192
    hidden: int = 28672
    heads: int = 64
    key_heads: int = 8
    tokens: int = 128256

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of the output layer."""
        return self.tokens * self.width

    @property
    def linear(self) -> int:
        """Weights of all linear layers."""
        keys = self.width * self.key_heads // self.heads
        return self.layers * self.width * (2 * self.width + 2 * keys + 3 * self.hidden) + self.embedding

    @property
    def norms(self) -> int:
        """Weights of all norms."""
        return (2 * self.layers + 1) * self.width

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.embedding + self.linear + self.norms

    def kept(self, length: int) -> int:
        """Numbers that a forward pass of so many tokens keeps for one backward pass.

        Of each block: what comes into two norms, leaves them without and with their gain, queries, keys, values and
        their sums; gate, its SiLU, up, and the product of both. Beside these the size of each token in each norm, the
        sum of exponentials in each head, and in the end the logarithms of all probabilities.
        """
        block = 10 * self.width + 4 * self.hidden + 2 + self.heads
        return length * (self.layers * block + 3 * self.width + 1 + self.tokens)

    def gradient_peak(self, ranks: int, length: int) -> int:
        """Bytes of a rank at most in one gradient: its weights, what the pass keeps, and the largest beside them.

        That is the whole gradient of the largest weight, twice while it is added up, or two derivatives by all logits.
        An accelerator holds a gradient once.
        """
        beside = 2 * max(self.embedding, self.hidden * self.width, length * self.tokens)
        return BYTES * (self.parameters // ranks + self.kept(length) + beside)

    def gathers(self, product: bool) -> int:
        """Weights that a rank gathers. An embedding is not needed in a backward pass.

        Of a product: forward, backward, the vector, the derivative of the backward pass, and the last backward pass.
        """
        times, once = (5, 2) if product else (2, 1)
        return times * (self.linear + self.norms) + once * self.embedding

    def sums(self, product: bool) -> int:
        """Entries of gradients that a rank adds up with the others."""
        return 3 * self.linear + 2 * (self.norms + self.embedding) if product else self.parameters


class Block(nn.Module):
    """Attention and a gated perceptron, each added to its input."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, keys = shape.width, shape.width * shape.key_heads // shape.heads
        self.heads, self.key_heads = shape.heads, shape.key_heads
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
        self.query, self.output = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.key, self.value = nn.Linear(width, keys, bias=False), nn.Linear(width, keys, bias=False)
        self.gate, self.up = nn.Linear(width, shape.hidden, bias=False), nn.Linear(width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, length, width] of the same shape."""
        rows, length, width = x.shape
        inner = self.norms[0](x)

        def split(layer: nn.Module, heads: int) -> Tensor:
            each: Tensor = layer(inner).view(rows, length, heads, -1).transpose(1, 2)
            return each if heads == self.heads else each.repeat_interleave(self.heads // heads, 1)

        query = split(self.query, self.heads)
        key, value = split(self.key, self.key_heads), split(self.value, self.key_heads)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).reshape(rows, length, width))
        inner = self.norms[1](x)
        added: Tensor = x + self.down(functional.silu(self.gate(inner)) * self.up(inner))
        return added


class Decoder(nn.Module):
    """Logits of the next token at all places, [rows * length, tokens]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.tokens, shape.width)
        self.blocks = nn.Sequential(*[Block(shape) for _ in range(shape.layers)])
        self.norm, self.head = nn.RMSNorm(shape.width), nn.Linear(shape.width, shape.tokens, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [rows, length]."""
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(x))))
        return logits.flatten(0, 1)


@dataclass
class Traced:
    """What one rank holds at most, in bytes by kind, and what it takes part in, in bytes of whole tensors."""

    weights: int = 0
    activations: int = 0
    temporary: int = 0
    """Of backward passes: also what a second one will need of the first."""
    gradients: int = 0
    total: int = 0
    gathered: int = 0
    added_up: int = 0

    def sent(self, ranks: int) -> float:
        """Bytes that it sends to the others, where each hands on what it holds in a ring."""
        return (self.gathered + self.added_up) * (ranks - 1) / ranks


class Known(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it a number that is read from a fake tensor is 1."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and DTensor not in types:
            return 1.0 if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of whole tensors that collectives put together or add up."""

    def __init__(self, counted: Traced) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted = counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            return NotImplemented  # what it is made of comes here on its own
        made = func(*args, **(kwargs or {}))
        if (kind := COLLECTIVES.get(func)) is not None:
            scattered = func is torch.ops._c10d_functional.reduce_scatter_tensor.default
            whole = args[0] if scattered or func.namespace == "c10d" else made
            whole = args[1] if func is torch.ops.c10d._reduce_scatter_base_.default else whole
            whole = whole[0] if isinstance(whole, list) else whole
            setattr(self.counted, kind, getattr(self.counted, kind) + whole.nbytes)
        return made


class OutsideModules:
    """Takes the place of what follows the tracker's modules, whose hooks do not bear `torch.autograd.grad`."""

    parents: frozenset[str] = frozenset()

    @property
    def is_bw(self) -> bool:
        """Whether a backward pass runs."""
        return torch._C._current_graph_task_id() != -1

    def register_user_hooks(self, *_: object) -> None:
        """No module has any."""

    def clear_user_hooks(self) -> None:
        """There are none."""

    def __enter__(self) -> None:
        """Nothing begins."""

    def __exit__(self, *_: object) -> None:
        """Nothing ends."""


@contextmanager
def simulated_rank(count: int) -> Iterator[None]:
    """Lets this process be the first of so many ranks, with tensors without numbers; the others do not exist."""
    distributed.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    mesh = init_device_mesh("cpu", (count,))  # of real numbers, as ranks are looked up in it
    with ranks.scope(), ExitStack() as within:  # whose end is also that of the process group
        ranks._CURRENT.set(ranks.Ranks(0, count))
        within.enter_context(patch.object(sharding, "init_device_mesh", lambda *_: mesh))
        within.enter_context(patch.object(ranks.Ranks, "require_next", lambda *_: None))
        within.enter_context(patch.object(problems, "require_faithful_split", lambda _: None))
        within.enter_context(FakeTensorMode())
        within.enter_context(Known())  # type: ignore[no-untyped-call]
        yield


def problem_of(shape: Shape, count: int, length: int, *, autocast: bool = False, recompute: bool = False) -> Problem:
    """The decoder with its weights sharded, and a row of so many tokens for each rank."""
    with torch.device("meta"):
        model = Decoder(shape)
    if recompute:
        recompute_activations(model)
    sharding.spread(model, torch.device("cpu"))
    sharding.share_weights(model)
    rows = {"x": torch.zeros(count, length, dtype=torch.int64), "y": torch.zeros(count, length, dtype=torch.int64)}
    batch = Batch(rows, count, "fake rows")
    problem = Problem(model, CrossEntropy(), batch, micro_batch=1, autocast=autocast)
    problem.conditions.drew = False  # which is told by numbers
    return problem


def gradient(problem: Problem) -> None:
    """The gradient of the loss, each tensor's part let go when it has been seen."""
    problem.visit_gradient(lambda *_: None)


def product(problem: Problem) -> None:
    """The Hessian along the weights, each tensor's part let go when it has been seen."""
    vector: Callable[[Any, Tensor], Tensor] = lambda tensor, _: tensor.parameter.detach()  # noqa: E731
    visit_hessian_vector_product(problem, problem.trainable, vector, lambda *_: None)


def traced(problem: Problem, run: Callable[[Problem], None]) -> Traced:
    """What the rank holds at most while it runs, and takes part in."""
    found, tracker = Traced(), MemTracker()
    tracker._mod_tracker = OutsideModules()  # type: ignore[assignment]

    def arrived(gradient: Tensor) -> None:
        tracker._update_and_maybe_create_winfos(own_part(gradient), _MemRefType.GRAD)

    tracker.track_external(problem.model)
    handles = [tensor.parameter.register_hook(arrived) for tensor in problem.trainable]  # type: ignore[no-untyped-call]
    with tracker, Traffic(found):
        run(problem)
    for handle in handles:
        handle.remove()
    (held,) = tracker.get_tracker_snapshot("peak").values()
    found.weights, found.activations = held[_MemRefType.PARAM], held[_MemRefType.ACT]
    found.temporary, found.gradients, found.total = held[_MemRefType.TEMP], held[_MemRefType.GRAD], held["Total"]
    return found


def main() -> None:
    """Prints a row for each length and pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Shape):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 2048])
    for flag in ("--autocast", "--recompute"):
        parser.add_argument(flag, action="store_true", help="as the program's flag of that name")
    options = vars(parser.parse_args())
    shape = Shape(**{field.name: options[field.name] for field in fields(Shape)})
    settings = {name: options[name] for name in ("autocast", "recompute")}
    count, size = options["ranks"], BYTES * shape.parameters
    print(f"{shape.parameters / 1e9:.2f} billion parameters, {size / 1e9:.1f} GB in float32, on {count} ranks\n")
    print("| tokens | pass | weights | activations | temporary | most, GB | gathered, weights | added up | sent, GB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for length in options["lengths"]:
        for run in (gradient, product):
            with simulated_rank(count):
                found = traced(problem_of(shape, count, length, **settings), run)
            held = (found.weights, found.activations, found.temporary + found.gradients, found.total)
            row = [str(length), run.__name__, *(f"{one / 1e9:.2f}" for one in held)]
            row += [f"{found.gathered / size:.3f}", f"{found.added_up / size:.3f}", f"{found.sent(count) / 1e9:.0f}"]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
