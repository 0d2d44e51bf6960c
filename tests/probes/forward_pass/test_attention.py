import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from fromage_cli.probes.forward_pass import attention
from fromage_cli.probes.forward_pass.attention import AttentionCall, AttentionHead, AttentionWatcher
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


def watched(*arguments: Any, **named: Any) -> tuple[AttentionHead, ...]:
    with AttentionWatcher(nn.Identity()) as watcher:
        scaled_dot_product_attention(*arguments, **named)
    (call,) = watcher.calls
    return call.heads


def reference(query: Tensor, key: Tensor, seen: Tensor, bias: Tensor, scale: float) -> list[AttentionHead]:
    """The definition, row by row: queries rows × heads × L × d, what is seen and added rows × heads × L × S."""
    heads = []
    for head in range(query.shape[1]):
        largest, shares, alone = [], [], []
        shared = head * key.shape[1] // query.shape[1]
        for row in range(query.shape[0]):
            for place in range(query.shape[2]):
                keys = [s for s in range(key.shape[2]) if seen[row, head, place, s]]
                q = query[row, head, place].double()
                logits = [
                    scale * float(q @ key[row, shared, s].double()) + float(bias[row, head, place, s]) for s in keys
                ]
                largest += logits
                if len(keys) > 1:
                    weights = torch.tensor(logits, dtype=torch.float64).softmax(0)
                    shares.append(float(-(weights * weights.log()).nansum()) / math.log(len(keys)))
                    alone.append(float(weights.max() > 0.99))
        if largest:
            means = (sum(each) / len(each) if each else None for each in (shares, alone))
            heads.append(AttentionHead(head, max(largest), *means))
    return heads


def assert_equal(found: tuple[AttentionHead, ...], expected: list[AttentionHead]) -> None:
    assert [one.head for one in found] == [one.head for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.largest_logit == pytest.approx(other.largest_logit, rel=1e-5, abs=1e-5)
        known = other.entropy_share is not None
        assert one.entropy_share == (pytest.approx(other.entropy_share, rel=1e-4, abs=1e-6) if known else None)
        assert one.one_key_share == other.one_key_share


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 2),
    groups=st.integers(1, 2),
    each=st.integers(1, 3),
    length=st.integers(1, 4),
    keys=st.integers(1, 4),
    masked=st.sampled_from(["not", "boolean", "additive", "one for all", "causal"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    size=st.sampled_from([1.0, 5.0]),
    scale=st.sampled_from([None, 0.3]),
    part=st.sampled_from([1, 1 << 22]),
    seed=st.integers(0, 1000),
)
def test_every_number_is_that_of_the_definition(
    rows: int,
    groups: int,
    each: int,
    length: int,
    keys: int,
    masked: str,
    dtype: torch.dtype,
    size: float,
    scale: float | None,
    part: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    heads, width = groups * each, 3
    query = size * torch.randn(rows, heads, length, width)
    key = size * torch.randn(rows, groups, keys, width)
    query, key = query.to(dtype), key.to(dtype)
    hidden = torch.rand(rows, 1 if masked == "one for all" else heads, length, keys) < 0.4
    bias = torch.randn(hidden.shape).to(dtype)
    seen = torch.ones(rows, heads, length, keys, dtype=torch.bool)
    named: dict[str, Any] = {"scale": scale, "enable_gqa": each > 1}
    if masked == "boolean":
        seen, named["attn_mask"] = seen & ~hidden, ~hidden
    elif masked in ("additive", "one for all"):
        seen, named["attn_mask"] = seen & ~hidden, bias.masked_fill(hidden, -math.inf)
    elif masked == "causal":
        seen, named["is_causal"] = seen.tril(), True
    added = bias.expand(seen.shape) if masked in ("additive", "one for all") else torch.zeros(seen.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "LARGEST_PART", part)
        found = watched(query, key, torch.randn(key.shape).to(dtype), **named)
    assert_equal(found, reference(query, key, seen, added, width**-0.5 if scale is None else scale))


def test_queries_of_zero_spread_evenly() -> None:
    query, key = torch.zeros(2, 3, 4, 5), torch.randn(2, 3, 6, 5)
    for head in watched(query, key, key):
        assert (head.largest_logit, head.one_key_share) == (0.0, 0.0)
        assert head.entropy_share == pytest.approx(1.0, rel=1e-6)


def test_two_keys_of_three_to_one() -> None:
    query, key = torch.tensor([[[[math.log(3.0)]]]]), torch.tensor([[[[1.0], [0.0]]]])
    (head,) = watched(query, key, key)
    assert head.largest_logit == pytest.approx(math.log(3.0))
    assert head.entropy_share == pytest.approx(2.0 - 0.75 * math.log2(3.0))


def test_keys_far_apart_leave_one() -> None:
    query, key = torch.full((1, 1, 3, 4), 10.0), torch.tensor([1.0, 0.0, 0.0]).expand(1, 1, 4, 3).mT
    (head,) = watched(query, key, key)
    assert head == AttentionHead(0, 20.0, pytest.approx(0.0, abs=1e-6), 1.0)


@pytest.mark.parametrize(("length", "keys"), [(2, 4), (4, 2)])
def test_causal_attention_is_aligned_at_the_first_query_as_in_torch(length: int, keys: int) -> None:
    query, key, value = torch.randn(1, 1, length, 3), torch.randn(1, 1, keys, 3), torch.eye(keys).expand(1, 1, -1, -1)
    weights = scaled_dot_product_attention(query, key, value, is_causal=True)  # the values are unit vectors
    rows = [row[: place + 1] for place, row in enumerate(weights[0, 0]) if place > 0]
    shares = [float(torch.special.entr(row).sum()) / math.log(len(row)) for row in rows]
    (head,) = watched(query, key, value, is_causal=True)
    assert head.entropy_share == pytest.approx(sum(shares) / len(shares), rel=1e-5)


def test_causal_attention_that_is_aligned_at_the_last_query() -> None:
    from torch.nn.attention.bias import causal_lower_right

    query, key = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4)
    seen = torch.ones(3, 5, dtype=torch.bool).tril(2)
    assert watched(query, key, key, attn_mask=causal_lower_right(3, 5)) == watched(query, key, key, attn_mask=seen)


def test_rows_that_see_nothing_are_left_out() -> None:
    query, key = torch.randn(2, 1, 4, 3), torch.randn(2, 1, 4, 3)
    seen = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    seen[1] = False
    first = watched(query[:1], key[:1], key[:1])
    assert watched(query, key, key, attn_mask=seen) == first
    for hidden in (-100.0, -10000.0, torch.finfo(torch.float32).min, -math.inf):
        additive = torch.zeros(seen.shape).masked_fill(~seen, hidden)
        assert watched(query, key, key, attn_mask=additive) == first
    assert watched(query, key, key, attn_mask=torch.zeros(4, 4, dtype=torch.bool)) == ()


def test_rows_that_see_one_key_have_no_entropy() -> None:
    query, key = torch.randn(1, 1, 3, 2), torch.randn(1, 1, 1, 2)
    largest = float((query @ key.mT).max()) / math.sqrt(2.0)
    assert watched(query, key, key) == (AttentionHead(0, pytest.approx(largest), None, None),)


def test_a_part_of_a_sequence_without_heads_is_one_head() -> None:
    query, key = torch.randn(2, 4, 3), torch.randn(2, 5, 3)
    seen = torch.rand(2, 4, 5) < 0.7
    whole = watched(query[:, None], key[:, None], key[:, None], attn_mask=seen[:, None])
    assert watched(query, key, key, attn_mask=seen) == whole
    assert_equal(watched(query[0], key[0], key[0]), list(watched(query[:1], key[:1], key[:1])))
    assert watched(query[:0], key[:0], key[:0]) == ()


def test_numbers_beyond_half_precision_are_told() -> None:
    query = torch.full((1, 1, 2, 4), 3e4, dtype=torch.float16)
    (head,) = watched(query, query, query)
    assert head.largest_logit == pytest.approx(2.0 * float(query[0, 0, 0, 0]) ** 2, rel=1e-6)


def test_what_is_not_a_number_is_told() -> None:
    query = torch.ones(1, 1, 2, 2)
    query[0, 0, 1] = math.nan
    (head,) = watched(query, torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert math.isnan(head.largest_logit) and head.entropy_share is not None and math.isnan(head.entropy_share)


class Twice(nn.Module):
    """Attends to itself, then once more inside the same module."""

    def forward(self, x: Tensor) -> Tensor:
        return scaled_dot_product_attention(scaled_dot_product_attention(x, x, x), x, x)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Twice(), nn.ModuleList([Twice()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.second[0](self.first(x))
        return scaled_dot_product_attention(x, x, x)


def places(calls: list[AttentionCall]) -> list[tuple[str, int]]:
    return [(call.module, call.number) for call in calls]


def test_a_call_is_named_by_its_module_and_a_running_number() -> None:
    model, x = Stack(), torch.randn(1, 2, 3, 4)
    with AttentionWatcher(model) as watcher:
        model(x)
    assert places(watcher.calls) == [("first", 1), ("first", 2), ("second.0", 1), ("second.0", 2), ("", 1)]
    model(x)
    assert len(watcher.calls) == 5
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_module_that_fails_does_not_name_what_comes_after() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError

    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Fails()

        def forward(self, x: Tensor) -> Tensor:
            with pytest.raises(ValueError):
                self.inner(x)
            return scaled_dot_product_attention(x, x, x)

    model = Tries()
    with AttentionWatcher(model) as watcher:
        model(torch.randn(1, 1, 2, 2))
    assert places(watcher.calls) == [("", 1)]


def test_a_compiled_model_has_the_names_that_it_was_written_with(make_problem: Maker) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.attention = nn.Linear(4, 4), Twice()

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(self.input(x)).mean((1, 2))

    model = torch.compile(Network(), backend="eager")
    problem = make_problem(model, {"x": torch.randn(2, 2, 3, 4), "y": torch.randint(4, (2,))})
    with AttentionWatcher(problem.model) as watcher:
        problem.value()
    assert places(watcher.calls) == [("attention", 1), ("attention", 2)]


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_a_backward_pass_recomputes_does_not_count_again(reentrant: bool) -> None:
    model, x = Twice(), torch.randn(1, 1, 3, 2, requires_grad=True)
    with AttentionWatcher(model) as watcher:
        checkpoint(model, x, use_reentrant=reentrant).sum().backward()
    assert places(watcher.calls) == [("", 1), ("", 2)]


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("mask", ["none", "padding", "causal", "both"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multi_head_attention(weights: bool, mask: str, batch_first: bool) -> None:
    model = nn.MultiheadAttention(8, 4, batch_first=batch_first).eval()
    x = torch.randn(3, 5, 8)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [4]])
    causal = torch.full((5, 5), -math.inf).triu(1)
    named: dict[str, Any] = {}
    seen = torch.ones(3, 1, 5, 5, dtype=torch.bool)
    if mask in ("padding", "both"):
        named["key_padding_mask"] = padding
        seen = seen & ~padding[:, None, None]
    if mask in ("causal", "both"):
        named |= {"attn_mask": causal, "is_causal": mask == "causal"}
        seen = seen.tril()
    queries, keys, _ = functional.linear(x, model.in_proj_weight, model.in_proj_bias).unflatten(-1, (3, 4, 2)).unbind(2)
    expected = watched(queries.transpose(1, 2), keys.transpose(1, 2), x[:, None], attn_mask=seen)
    given = x if batch_first else x.transpose(0, 1)
    plain = model(given, given, given, need_weights=weights, **named)
    with AttentionWatcher(model) as watcher:
        found = model(given, given, given, need_weights=weights, **named)
    torch.testing.assert_close(found, plain)
    assert places(watcher.calls) == [("", 1)]
    assert_equal(watcher.calls[0].heads, list(expected))


@pytest.mark.parametrize("weights", [True, False])
def test_multi_head_attention_draws_what_it_drew_unseen(weights: bool) -> None:
    model, x = nn.MultiheadAttention(8, 2, dropout=0.5), torch.randn(4, 3, 8)
    results = []
    for watcher in (None, AttentionWatcher(model)):
        torch.manual_seed(3)
        if watcher is None:
            results.append(model(x, x, x, need_weights=weights)[0])
        else:
            with watcher, torch.device("cpu"):
                results.append(model(x, x, x, need_weights=weights)[0])
            assert len(watcher.calls) == 1
        results.append(torch.rand(1))
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])


def test_a_transformer_of_torch_is_seen_in_evaluation_mode_too() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    with torch.no_grad(), AttentionWatcher(model) as watcher:
        model(torch.randn(2, 3, 8))
    assert places(watcher.calls) == [("layers.0.self_attn", 1), ("layers.1.self_attn", 1)]


@pytest.mark.parametrize("narrow", [True, False])
def test_autocast_changes_no_arithmetic_here(narrow: bool) -> None:
    query, key = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8)
    expected = watched(query, key, key)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
        assert watched(query, key, key) == expected
        model, x = nn.MultiheadAttention(8, 2), nn.Linear(8, 8)(torch.randn(4, 3, 8))
        with AttentionWatcher(model) as watcher:
            model(x, x, x)
    assert len(watcher.calls) == 1


@pytest.mark.filterwarnings("ignore")
def test_tensors_without_numbers_of_their_own_pass_unseen() -> None:
    x = torch.randn(2, 1, 1, 3, 4)
    rows = [torch.randn(2, 1, 4), torch.randn(3, 1, 4)]
    nested = torch.nested.nested_tensor(rows, layout=torch.jagged).transpose(1, 2)
    with AttentionWatcher(nn.Identity()) as watcher:
        found = torch.func.vmap(lambda one: scaled_dot_product_attention(one, one, one))(x)
        scaled_dot_product_attention(*[torch.randn(1, 1, 3, 4, device="meta")] * 3)
        scaled_dot_product_attention(nested, nested, nested)
    assert watcher.calls == []
    torch.testing.assert_close(found[1], scaled_dot_product_attention(x[1], x[1], x[1]))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("padded", [True, False])
def test_the_weights_that_hugging_face_returns(family: str, padded: bool) -> None:
    transformers = pytest.importorskip("transformers")
    if family == "gpt2":
        settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
        config = transformers.GPT2Config(vocab_size=50, initializer_range=0.5, **settings)
    else:
        config = transformers.LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
        )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    ids, mask = torch.randint(50, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    if padded:
        mask[1, 6:] = 0
    with torch.no_grad():
        weights = model(ids, attention_mask=mask, output_attentions=True).attentions
        with AttentionWatcher(model) as eager:
            model(ids, attention_mask=mask)
        model.set_attn_implementation("sdpa")
        with AttentionWatcher(model) as watcher:
            model(ids, attention_mask=mask)
    assert eager.calls == []  # matrix products and a softmax
    assert len(watcher.calls) == 2
    seen = torch.ones(3, 1, 9, 9, dtype=torch.bool).tril() & mask[:, None, None].bool()
    rows = (seen.sum(-1) > 1).expand(3, 4, 9)
    for call, each in zip(watcher.calls, weights, strict=True):
        shares = torch.special.entr(each).sum(-1) / seen.sum(-1).log()
        for head in call.heads:
            counted = rows[:, head.head]
            assert head.entropy_share == pytest.approx(float(shares[:, head.head][counted].mean()), rel=1e-4)
            alone = (each[:, head.head].amax(-1) > 0.99)[counted].float().mean()
            assert head.one_key_share == pytest.approx(float(alone), abs=1e-6)


def test_the_logits_of_gpt2() -> None:
    transformers = pytest.importorskip("transformers")
    settings = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=50, initializer_range=0.5, **settings))
    parts: list[Tensor] = []
    model.transformer.h[0].attn.c_attn.register_forward_hook(lambda *given: parts.append(given[2].detach()))
    with AttentionWatcher(model) as watcher:
        model.eval()(torch.randint(50, (3, 9)))
    queries, keys, _ = parts[0].unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
    largest = (queries @ keys.mT / math.sqrt(8.0)).masked_fill(torch.ones(9, 9).triu(1) > 0, -math.inf).amax((0, 2, 3))
    (call,) = watcher.calls
    assert call.module == "transformer.h.0.attn"
    assert [head.largest_logit for head in call.heads] == pytest.approx(largest.tolist(), rel=1e-5)


def test_a_forward_pass_of_a_problem_is_the_same_and_counts(make_problem: Maker) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.output = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(self.attention(x, x, x)[0].mean(1))

    data = {"x": torch.randn(4, 3, 8), "y": torch.randint(3, (4,))}
    for mode in ("auto", "train"):
        problem = make_problem(Network(), data, mode=mode)
        loss, before = problem.value(), {name: value.clone() for name, value in problem.model.state_dict().items()}
        with AttentionWatcher(problem.model) as watcher:
            assert problem.value() == pytest.approx(loss, rel=1e-6)
        assert problem.evaluations.forwards == 2
        assert all(torch.equal(before[name], value) for name, value in problem.model.state_dict().items())
        assert places(watcher.calls) == [("attention", 1)]
        assert problem.value() == loss
