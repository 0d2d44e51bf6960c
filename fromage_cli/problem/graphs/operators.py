"""The operators that a graph may call: a fixed list, none of which reads a file, opens anything or runs code."""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fromage_cli.checkpoints.storage.stored_tensor import COUNT_LIMIT
from fromage_cli.errors import UnsafeError

_OPERATORS: Mapping[str, str] = {
    "one number for each number": """
        __and__ __iand__ __ior__ __lshift__ __or__ __rshift__ __xor__
        abs absolute acos acosh asin asinh atan atan2 atanh arctan2 bernoulli bitwise_and bitwise_left_shift
        bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min clip clone conj
        copysign cos cosh deg2rad digamma elu erf erfc erfinv exp exp2 expm1 fix floor floor_divide fmax fmin fmod
        frac gelu glu gt ge hardshrink hardsigmoid hardswish hardtanh heaviside hypot i0 isclose isfinite isinf
        isnan isneginf isposinf leaky_relu lerp le lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2
        logical_and logical_not logical_or logical_xor logit lt maximum minimum mish mul multiply nan_to_num ne neg
        negative not_equal eq polar pow prelu rad2deg real imag reciprocal relu relu6 remainder rrelu round rsqrt
        selu sgn sigmoid sign silu sin sinc sinh softplus softshrink special_entr special_expit special_log_softmax
        special_softmax sqrt square sub subtract add tan tanh tanh_shrink threshold true_divide trunc where xlogy
        addcdiv addcmul div divide rsub logsigmoid view_as_complex view_as_real complex angle float_power nextafter
        greater greater_equal less less_equal
    """,
    "products and layers": """
        addbmm addmm addmv addr baddbmm bilinear bmm chain_matmul conv1d conv2d conv3d conv_transpose1d
        conv_transpose2d conv_transpose3d convolution cross dot einsum embedding embedding_bag embedding_renorm
        inner kron linalg_cross linalg_matrix_norm linalg_norm linalg_vector_norm linear matmul matrix_exp mm mv
        outer tensordot trilinear vdot linalg_vecdot linalg_inv linalg_solve linalg_cholesky linalg_qr linalg_det
        linalg_slogdet logdet cdist pdist pairwise_distance cosine_similarity batch_norm group_norm instance_norm
        layer_norm rms_norm native_batch_norm native_group_norm native_layer_norm local_response_norm dropout
        alpha_dropout feature_dropout feature_alpha_dropout native_dropout scaled_dot_product_attention softmax
        log_softmax softmin norm_except_dim _weight_norm _softmax _log_softmax lstm gru rnn_tanh rnn_relu lstm_cell
        gru_cell rnn_tanh_cell rnn_relu_cell channel_shuffle pixel_shuffle pixel_unshuffle native_channel_shuffle
    """,
    "sizes and places": """
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
        adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d
        max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices lp_pool1d lp_pool2d
        upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
        upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d
        _upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler grid_sampler_2d
        grid_sampler_3d affine_grid_generator im2col col2im unfold pad constant_pad_nd reflection_pad1d
        reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d _pad_circular alias
        argmax argmin argsort as_strided atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to
        bucketize cartesian_prod cat chunk column_stack combinations concat concatenate contiguous cummax cummin
        cumprod cumsum diag diag_embed diagonal diff dsplit dstack expand expand_as flatten flip fliplr flipud
        gather hsplit hstack index index_add index_copy index_fill index_put index_select isin item kthvalue
        lift_fresh lift_fresh_copy lift masked_fill masked_scatter masked_select meshgrid moveaxis movedim narrow
        narrow_copy nonzero nonzero_numpy numel permute ravel repeat repeat_interleave reshape reshape_as
        resolve_conj resolve_neg roll rot90 row_stack scatter scatter_add scatter_reduce searchsorted select
        select_scatter slice slice_scatter diagonal_scatter sort split split_with_sizes squeeze stack swapaxes
        swapdims t T mT mH adjoint take take_along_dim tensor_split tile topk transpose tril triu unbind unflatten
        unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze vander view view_as vsplit vstack sym_size
        sym_numel sym_stride sym_storage_offset size numpy_T triu_indices tril_indices unique_consecutive _unique2
        unique_dim detach type_as to _to_copy expand_copy view_copy permute_copy transpose_copy
    """,
    "one number for many": """
        all allclose amax amin aminmax any bincount count_nonzero equal histc logcumsumexp logsumexp max mean median
        min mode nanmean nanmedian nanquantile nansum norm frobenius_norm nuclear_norm prod quantile std std_mean
        sum sum_to_size trace var var_mean dist
    """,
    "made from nothing": """
        arange empty empty_like eye fill full full_like linspace logspace new_empty new_full new_ones new_zeros ones
        ones_like rand rand_like randint randint_like randn randn_like randperm normal normal_functional uniform
        exponential multinomial scalar_tensor zero zeros zeros_like one_hot bartlett_window hann_window
        hamming_window blackman_window cauchy log_normal geometric random copy copy_sparse_to_sparse empty_strided
        new_empty_strided poisson binomial
    """,
    "losses": """
        binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss ctc_loss
        gaussian_nll_loss hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss
        multi_margin_loss multilabel_margin_loss nll_loss nll_loss2d nll_loss_nd poisson_nll_loss smooth_l1_loss
        soft_margin_loss triplet_margin_loss nll_loss_forward nll_loss2d_forward
    """,
    "Fourier transforms": """
        fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2
        fft_irfftn fft_rfft fft_rfft2 fft_rfftn fft_fftfreq fft_rfftfreq stft istft _local_scalar_dense
    """,
}
"""Operators of torch's own library, by what they do; an underscore behind a name writes in place."""
_ATEN = frozenset(name for names in _OPERATORS.values() for name in names.split())
_ATEN_NAME = re.compile(r"aten\.(\w+)\.(\w+)")

LARGEST_POWER = 64
"""The largest exponent of a number in a graph: sizes are squared or cubed."""


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for numbers alone: texts and lists could grow without end, and so could powers."""

    def compute(*given: Any) -> Any:
        if not all(isinstance(number, int | float) and abs(number) < COUNT_LIMIT for number in given):
            raise TypeError("a function of numbers was given something else")
        if function is operator.pow and abs(given[1]) > LARGEST_POWER:
            raise ValueError(f"a power above {LARGEST_POWER}")
        found = function(*given)
        if isinstance(found, int) and abs(found) >= COUNT_LIMIT:
            raise ValueError("a number beyond 64 bits")
        return found

    return compute


def item_of(values: Any, place: Any) -> Any:
    """One of several values, or a part of a tensor."""
    if not isinstance(values, list | tuple | Tensor):
        raise TypeError(f"a {type(values).__name__} has no items")
    return values[place]


_PLAIN: dict[str, Callable[..., Any]] = {
    "operator.getitem": item_of,
    **{
        f"operator.{name}": _of_numbers(getattr(operator, name))
        for name in (
            "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "pos", "abs", "eq", "ne", "lt", "le", "gt",
            "ge", "and_", "or_", "not_",
        )
    },
    **{f"math.{name}": _of_numbers(getattr(math, name)) for name in ("trunc", "floor", "ceil", "sqrt")},
    **{f"builtins.{function.__name__}": _of_numbers(function) for function in (max, min, round)},
    **{
        f"torch.sym_{name}": _of_numbers(getattr(torch, f"sym_{name}"))
        for name in ("max", "min", "not", "float", "int", "ite")
    },
}  # fmt: skip
"""Functions of numbers such as the size of a batch, and of lists of tensors."""

_REDUCTIONS = ("none", "mean", "sum")


def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: int = 1, *more: Any
) -> Tensor:
    """The cross-entropy of torch, called as its operator is."""
    named = dict(zip(("ignore_index", "label_smoothing"), more, strict=False))
    return functional.cross_entropy(input, target, weight, reduction=_REDUCTIONS[reduction], **named)


def nll(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: int = 1, ignore_index: int = -100
) -> Tensor:
    """The loss of log-probabilities of torch, called as its operator is."""
    return functional.nll_loss(input, target, weight, reduction=_REDUCTIONS[reduction], ignore_index=ignore_index)


def mse(input: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
    """The squared error of torch, called as its operator is."""
    return functional.mse_loss(input, target, reduction=_REDUCTIONS[reduction])


def _normalisation(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function of torch that normalises by running statistics, called as its operator is."""

    def normalise(input: Tensor, weight: Tensor | None, bias: Tensor | None, *more: Any) -> Tensor:
        mean, variance, by_input, momentum, eps, _ = more
        return function(input, mean, variance, weight, bias, by_input, momentum, eps)

    return normalise


def _recurrence(name: str, gates: int) -> Callable[..., Any]:
    """A recurrence of torch, once its weights have their shapes: torch's kernels do not look at all of them."""
    kernel = getattr(torch.ops.aten, name).input

    def recur(input: Tensor, state: Any, weights: Sequence[Tensor], *more: Any) -> Any:
        biased, layers, _, _, both_ways, rows_first = more
        states, directions = state if isinstance(state, list | tuple) else [state], 2 if both_ways else 1
        hidden, rows = states[0].shape[-1], input.shape[0 if rows_first else 1]
        if input.dim() != 3 or not layers or len(weights) != layers * directions * (4 if biased else 2):
            raise ValueError("a recurrence with another number of weights")
        for place, weight in enumerate(weights):
            which = place % (4 if biased else 2)
            first = place < directions * (4 if biased else 2)
            width = (input.shape[-1] if first else hidden * directions) if which == 0 else hidden
            if tuple(weight.shape) != ((gates * hidden, width) if which < 2 else (gates * hidden,)):
                raise ValueError("a recurrence whose weights do not fit")
        if any(tuple(each.shape) != (layers * directions, rows, hidden) for each in states):
            raise ValueError("a recurrence whose state does not fit")
        return kernel(input, state, weights, *more)

    return recur


def _normed(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Weight normalisation of a weight that has entries: torch's kernel divides by their number."""
    if not v.numel():
        raise ValueError("weight normalisation of nothing")
    return torch._weight_norm(v, g, dim)


def _one_hot(target: Tensor, classes: int) -> Tensor:
    """One of so many classes; their number is not taken from the values."""
    if classes < 1:
        raise ValueError("one_hot without a number of classes")
    return functional.one_hot(target, classes)


_PUBLIC: dict[str, Callable[..., Any]] = {
    "cross_entropy_loss.default": cross_entropy,
    "nll_loss_nd.default": nll,
    "mse_loss.default": mse,
    "scaled_dot_product_attention.default": functional.scaled_dot_product_attention,
    "linear.default": functional.linear,
    "one_hot.default": _one_hot,
    "relu.default": torch.relu,
    "relu_.default": torch.relu_,
    "hardtanh.default": functional.hardtanh,
    "clamp.default": torch.clamp,
    "clamp_min.default": torch.clamp_min,
    "layer_norm.default": torch.layer_norm,
    "rms_norm.default": torch.rms_norm,
    "group_norm.default": torch.group_norm,
    "batch_norm.default": _normalisation(functional.batch_norm),
    "instance_norm.default": _normalisation(functional.instance_norm),
    "matmul.default": torch.matmul,
    "addmm.default": torch.addmm,
    "add.Tensor": torch.add,
    "add_.Tensor": Tensor.add_,
    "sub.Tensor": torch.sub,
    "_weight_norm.default": _normed,
    "lstm.input": _recurrence("lstm", 4),
    "gru.input": _recurrence("gru", 3),
    "rnn_tanh.input": _recurrence("rnn_tanh", 1),
    "rnn_relu.input": _recurrence("rnn_relu", 1),
    **{f"conv{n}d.default": getattr(torch, f"conv{n}d") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d.input": getattr(torch, f"conv_transpose{n}d") for n in (1, 2, 3)},
}
"""Those that measurements look at by the function of torch that the network's own code calls."""


REFUSED = frozenset(
    {"lstm.data", "gru.data", "rnn_tanh.data", "rnn_relu.data", "embedding_bag.padding_idx", "repeat_interleave.Tensor"}
    | {"repeat_interleave.self_Tensor", "bincount.default", "native_batch_norm.default"}
)
"""Those that end the process on shapes that they do not look at, or whose result may have any size."""


def find_operator(name: str) -> Callable[..., Any]:
    """The function of that name in the list.

    Raises UnsafeError for any other name: nothing of it was run.
    """
    if name in _PLAIN:
        return _PLAIN[name]
    match = _ATEN_NAME.fullmatch(name)
    if (
        match is not None
        and (match[1] in _ATEN or match[1].removesuffix("_") in _ATEN)
        and "out" not in match[2].split("_")
    ):
        packet = getattr(torch.ops.aten, match[1], None)
        refused = f"{match[1]}.{match[2]}" in REFUSED or match[2].startswith("prim_")
        if not refused and packet is not None and match[2] in packet.overloads() and _is_of_tensors(packet, match[2]):
            return _PUBLIC.get(f"{match[1]}.{match[2]}") or getattr(packet, match[2])
    raise UnsafeError(
        f"The graph calls {name[:80]!r}, which is not in the list of operators that a bundle may use.",
        "Nothing was run. If you made the bundle, give --model file.py:factory with it.",
    )


def _is_of_tensors(packet: Any, overload: str) -> bool:
    """Whether it takes or gives a tensor: others are TorchScript's own for lists and texts."""
    schema = getattr(packet, overload)._schema
    return any("Tensor" in str(each.type) for each in (*schema.arguments, *schema.returns))


def require_kinds(name: str, arguments: Sequence[Any], named: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raise TypeError where a type, a layout or a device is given as something else, such as its number.

    `kinds`: what may stand for each, by what torch's schema calls it.
    """
    match = _ATEN_NAME.fullmatch(name)
    if match is None:
        return
    schema = getattr(getattr(torch.ops.aten, match[1]), match[2])._schema
    if len(arguments) > len(schema.arguments) or not set(named) <= {each.name for each in schema.arguments}:
        raise TypeError(f"{name} does not take these arguments")
    given = [*zip(schema.arguments, arguments, strict=False)]
    given += [(each, named[each.name]) for each in schema.arguments if each.name in named]
    for argument, value in given:
        kind = str(argument.real_type).removeprefix("Optional[").removesuffix("]")
        if kind in kinds and value is not None and not isinstance(value, kinds[kind]):
            raise TypeError(f"{argument.name} of {name} is no {kind}")


def is_allowed(name: str) -> bool:
    """Whether the list has an operator of that name."""
    try:
        return bool(find_operator(name))
    except UnsafeError:
        return False
