"""Copies of tensors that take memory only when one of the two is written into."""

import torch
from torch import Tensor


def independent_copy(tensor: Tensor) -> Tensor:
    """A copy for one call of a model or a loss, which may write into it; memory is taken only when that happens.

    Every other call has to see the same batch, while training never looks at one again: so a network may write into its
    input (`x.mul_(2)`), always or only under some condition. torch copies the storage of a lazy clone before anything
    can write: an operation in place, a view in numpy, a kernel that asks for the address. It would copy all of it, so a
    tensor that is a part of its storage is copied at once. One whose memory is not torch's own cannot be cloned lazily.
    torch tests lazy clones on processors and CUDA only.
    """
    if tensor.device.type in ("cpu", "cuda") and tensor.untyped_storage().nbytes() == tensor.nbytes:
        try:
            return torch._lazy_clone(tensor)
        except (AttributeError, RuntimeError):
            pass
    return tensor.clone()
