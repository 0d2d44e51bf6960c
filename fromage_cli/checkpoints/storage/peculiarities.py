"""Tensors that are not stored as plain numbers: what to say of them, and what to do."""

from collections.abc import Iterable

WHOLE = (
    "Each file holds one rank's part. Save the whole: torch.distributed.checkpoint.save, or torch.save of "
    "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))."
)
REMEDIES = (  # a word in what it is called, what to do
    ("DTensor", WHOLE),
    ("ShardedTensor", WHOLE),
    ("sparse", "Save it dense: tensor.to_dense()."),
    ("meta device", "Save the model after its weights have been loaded."),
    ("conjugated", "Save tensor.resolve_conj().resolve_neg()."),
)
DEQUANTISE = "Quantised weights cannot be measured. Use the checkpoint they were made from, or dequantise it."


def remedy(dtypes: Iterable[str]) -> str:
    """Return what to do about tensors, by their dtypes with what is peculiar to them before it."""
    words = " ".join(dtypes)
    return next((what for word, what in REMEDIES if word in words), DEQUANTISE)
