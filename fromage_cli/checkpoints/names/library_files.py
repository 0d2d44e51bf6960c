"""Names and limits that other libraries set for the files they write."""

import re

HEADER_LIMIT = 100_000_000
"""Bytes of a safetensors file's header; the format's own limit."""
MOST_SHARDS = 10_000
"""Files of one checkpoint: a rank writes a few, and the largest runs have some thousand ranks."""
METADATA = ".metadata"
"""What says which pieces of which tensors lie in the shards of a torch.distributed.checkpoint."""
SHARD_OF_RANK = re.compile(r"^shard-([0-9]{5})-model-[0-9]{5}-of-[0-9]{5}\.safetensors$")
"""One rank's part of such a checkpoint in safetensors files."""
MODEL_STATES = re.compile(r"^(?:zero_pp_rank_([0-9]+)_)?mp_rank_([0-9]+)_model_states\.pt$")
"""What DeepSpeed writes about the model, once or once a rank."""
ACCELERATE = ("pytorch_model_fsdp_0", "optimizer_0")
"""Distributed checkpoints inside of one that Hugging Face's accelerate wrote: the weights' and the optimizer's."""
FURTHER_OPTIMIZER = re.compile(r"^optimizer_([1-9][0-9]{0,3})(?:\.pt|\.bin)?$")
"""What accelerate calls the optimizers of one run after the first."""
