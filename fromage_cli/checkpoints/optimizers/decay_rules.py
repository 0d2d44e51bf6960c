"""The usual rules for which tensors are decayed, of which training scripts make two parameter groups.

nanoGPT decays what has two or more dimensions. The Hugging Face Trainer decays all but biases and normalisations. It
knows those by name, or as the weight of a LayerNorm; here one dimension tells that.
"""

import re
from collections.abc import Callable

Shape = tuple[int, ...]
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.I)
"""As Trainer.get_decay_parameter_names of transformers 5 has it."""


def _of_a_norm(name: str, shape: Shape) -> bool:
    return len(shape) < 2 and name.endswith("weight")


DECAY_RULES: tuple[Callable[[str, Shape], bool], ...] = (
    lambda name, shape: len(shape) > 1,
    lambda name, shape: not _NO_DECAY.search(name) and not _of_a_norm(name, shape),
    lambda name, shape: not _NO_DECAY.search(name),
    lambda name, shape: "bias" not in name and not _of_a_norm(name, shape),
)
"""Whether a tensor is decayed: nanoGPT; the Trainer; the same in a model without LayerNorms; the Trainer of old."""
