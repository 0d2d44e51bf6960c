"""Attention in a forward pass: how large each head's logits are, and over how many keys its rows are spread."""

import inspect
import math
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import FunctionType, TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.probes.forward_pass.seen_calls import Function, looked_at, widened
from fromage_cli.problem.conditions.replaced_calls import ReplacedCalls
from fromage_cli.problem.networks.layers import unwrapped

LARGEST_PART = 1 << 22
"""Scores of one head that are held at once: 16 MB in float32, and a few copies."""
HIDDEN = -80.0
"""What an additive mask adds to a key that it hides, or less: 1e-35 of a weight. Swin adds -100, others -10000."""
ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
"""Those of `scaled_dot_product_attention` that may be given by position."""
ONE_KEY = 0.99
"""The weight from which on a row attends to one key alone."""


@dataclass(frozen=True)
class AttentionHead:
    """One head in one call of attention."""

    head: int
    """Its place, from 0; of the queries' heads where several share one head of keys."""
    largest_logit: float
    """The largest q·k/√d, an additive mask included, over all rows and the keys that they see."""
    entropy_share: float | None
    """The mean of each row's entropy ÷ ln(keys that it sees), 0 to 1; None where no row sees two keys."""
    one_key_share: float | None
    """The share of these rows in which one key has more than 0.99 of the weight."""


@dataclass(frozen=True)
class AttentionCall:
    """One call of attention."""

    module: str
    """The innermost module in which it was made; empty for the model itself."""
    number: int
    """1 for the first call that this module makes, 2 for the second."""
    heads: tuple[AttentionHead, ...]
    """An entry for each head, without those whose rows see no key."""


class AttentionWatcher:
    """Within the block, each call of `scaled_dot_product_attention` leaves what its heads are like in `calls`.

    Those of `nn.MultiheadAttention` are among them, whether or not it returns its weights. Attention that is written
    as matrix products and a softmax is not seen. Neither are kernels from elsewhere, nor what `backward` recomputes.
    With micro-batches there is a call for each.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: list[AttentionCall] = []
        self._within = [""]
        self._numbers: Counter[str] = Counter()
        self._block = ExitStack()

    def __enter__(self) -> Self:
        for name, module in unwrapped(self.model).named_modules():
            if not isinstance(module, torch.jit.ScriptModule):  # they take no hooks
                self._block.callback(module.register_forward_pre_hook(self._enter(name)).remove)
                self._block.callback(module.register_forward_hook(self._leave, always_call=True).remove)
        attend: Function = functional.scaled_dot_product_attention
        whole: Function = functional.multi_head_attention_forward
        replaced = {attend: looked_at(attend, self._look), whole: looked_at(whole, self._look_into)}
        self._block.enter_context(ReplacedCalls(replaced))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.close()

    def _enter(self, name: str) -> Callable[..., None]:
        return lambda *_: self._within.append(name)

    def _leave(self, *_: Any) -> None:
        self._within.pop()

    def _look(self, *arguments: Any, **named: Any) -> None:
        """Takes the arguments of `scaled_dot_product_attention`; of three dimensions the first are rows, not heads."""
        given = dict(zip(ARGUMENTS, arguments, strict=False)) | named
        query, key, mask, scale = given["query"], given["key"], given.get("attn_mask"), given.get("scale")
        if mask is not None and hasattr(mask, "_materialize"):  # torch's CausalBias, which holds no entries
            mask = mask._materialize(query.device)
        if mask is not None:
            mask = mask.expand(*mask.shape[:-2], query.shape[-2], key.shape[-2])
            if query.dim() < 4 and mask.dim() > 2:
                mask = mask.unsqueeze(-3)
        if query.dim() < 4:
            query, key = query.unsqueeze(-3), key.unsqueeze(-3)
        count = max(query.shape[-3], key.shape[-3])
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        heads = [
            _measure_head(
                head,
                _of_head(query, head, count),
                _of_head(key, head, count),
                None if mask is None else _of_head(mask, head, count),
                is_causal=given.get("is_causal", False),
                scale=scale,
            )
            for head in range(count)
        ]
        module = self._within[-1]
        self._numbers[module] += 1
        self.calls.append(AttentionCall(module, self._numbers[module], tuple(filter(None, heads))))

    def _look_into(self, *arguments: Any, **named: Any) -> None:
        """Takes the arguments of `multi_head_attention_forward`, and looks at the attention that it computes.

        A mode does not see what this function calls. So a copy of it is run, whose attention is looked at. The copy
        does not return its weights, so that it uses the kernel, with the mask that it was given and no dropout.
        """
        function = functional.multi_head_attention_forward
        bound = inspect.signature(function).bind(*arguments, **named)
        bound.apply_defaults()
        if bound.arguments["need_weights"]:
            bound.arguments |= {"need_weights": False, "is_causal": False}
        bound.arguments["dropout_p"] = 0.0
        replaced = {
            "scaled_dot_product_attention": looked_at(functional.scaled_dot_product_attention, self._look),
            "has_torch_function": lambda _: False,
        }
        FunctionType(function.__code__, function.__globals__ | replaced)(*bound.args, **bound.kwargs)


def _of_head(tensor: Tensor, head: int, heads: int) -> Tensor:
    """The part of a head, rows … × length × any; where the tensor has fewer heads, neighbours share one."""
    return tensor if tensor.dim() < 3 else tensor[..., head * tensor.shape[-3] // heads, :, :]


def _measure_head(
    head: int, query: Tensor, key: Tensor, mask: Tensor | None, *, is_causal: bool, scale: float
) -> AttentionHead | None:
    """One head: queries rows … × L × d, keys rows … × S × d, mask … × L × S; None where nothing is seen."""
    largest, several, entropies, alone = [], 0, 0.0, 0
    length, key = query.shape[-2], widened(key)
    rows = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])  # type: ignore[no-untyped-call]
    row = key.shape[-2] * math.prod(rows)
    step = max(1, LARGEST_PART // max(1, row))
    for start in range(0, length if row else 0, step):
        places = slice(start, min(start + step, length))
        with torch.autocast(query.device.type, enabled=False):
            logits = scale * widened(query[..., places, :]) @ key.mT
        seen = torch.ones_like(logits, dtype=torch.bool)
        if is_causal:
            seen = seen.tril(start)  # from this part's first query on
        if mask is not None and mask.dtype == torch.bool:
            seen = seen & mask[..., places, :]
        elif mask is not None:
            seen, logits = seen & (mask[..., places, :] > HIDDEN), logits + mask[..., places, :]
        logits = logits.masked_fill(~seen, -math.inf)
        largest.append(logits.amax())
        counts = seen.sum(-1)
        weights, counts = logits.softmax(-1)[counts > 1], counts[counts > 1]
        several += len(weights)
        entropies += (torch.special.entr(weights).sum(-1) / counts.log()).double().sum().item()
        alone += int((weights.amax(-1) > ONE_KEY).sum())
    found = torch.stack(largest).amax().item() if largest else -math.inf
    if found == -math.inf:
        return None
    if not several:
        return AttentionHead(head, found, None, None)
    return AttentionHead(head, found, entropies / several, alone / several)
