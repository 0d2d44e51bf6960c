"""`--model hf` against `from_pretrained`: the loss of every family of transformers that is small to build.

    python benchmarks/hugging_face_families.py [NAME …] [--write docs/hugging-face-families.md]

Each family is built tiny from its configuration, its weights drawn at random, saved by `save_pretrained` and read back
by both, with attention computed step by step and in float32.
"""

import argparse
import inspect
import json
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers.models.auto import modeling_auto

from fromage_cli.errors import FromageError
from fromage_cli.intake import open_problem
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions

WORDS, IMAGE, CLASSES, ROWS, LENGTH = 99, 32, 3, 3, 12
LARGEST = 5_000_000
"""Numbers of a network that counts as small."""
ROUNDING = 5e-7
"""Relative difference of losses that have seven digits in common, as float32 holds them."""
SMALL: dict[str, Any] = {
    **dict.fromkeys(["hidden_size", "d_model", "n_embd", "dim", "embed_dim", "emb_dim", "embedding_size"], 32),
    **dict.fromkeys(["n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_hidden_layers"], 2),
    **dict.fromkeys(["num_decoder_layers", "num_encoder_layers", "encoder_num_hidden_layers", "depth"], 2),
    **dict.fromkeys(["n_head", "n_heads", "num_heads", "num_attention_heads", "num_key_value_heads"], 2),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads", "encoder_num_attention_heads"], 2),
    **dict.fromkeys(["decoder_num_attention_heads", "decoder_num_hidden_layers"], 2),
    **dict.fromkeys(["head_dim", "kv_channels", "d_kv", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"], 16),
    **dict.fromkeys(
        ["intermediate_size", "ffn_dim", "d_ff", "d_inner", "n_inner", "hidden_dim", "ffn_hidden_size"], 48
    ),
    **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size", "decoder_ffn_dim"], 48),
    **dict.fromkeys(["shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"], 48),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token"], 2),
    **dict.fromkeys(["n_group", "topk_group"], 1),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "max_source_positions", "max_target_positions"], 64),
    **dict.fromkeys(["vocab_size", "n_vocab", "decoder_vocab_size"], WORDS),
    "image_size": IMAGE,
    "patch_size": 8,
    "num_labels": CLASSES,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "state_size": 8,
    "num_mel_bins": 16,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
    "decoder_start_token_id": 1,
}
"""Numbers of a small network, by the names that configurations give them."""
SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 4}
STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1]}
TEXT = {"model_type": "llama", **{name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "vocab_size")}}
TEXT |= {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 0}
SEEN = {"model_type": "clip_vision_model", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SEEN |= {"intermediate_size": 48, "image_size": IMAGE, "patch_size": 8}
CONVOLUTIONS = {"conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2}
OF_ONE = {
    **dict.fromkeys(["swin", "swinv2", "donut-swin"], SWIN),
    **{key: {**STAGES, "num_stages": 2} for key in ["convnext", "convnextv2"]},
    **{key: {**STAGES, "embedding_size": 16} for key in ["resnet", "regnet"]},
    **{
        key: {"text_config": TEXT, "vision_config": SEEN}
        for key in ["llava", "llava_next", "vipllava", "llava_next_video"]
    },
    **dict.fromkeys(["wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio"], CONVOLUTIONS),
    "segformer": {**STAGES, "num_encoder_blocks": 2, "num_attention_heads": [1, 2], "decoder_hidden_size": 16}
    | {"sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2]},
    "poolformer": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_encoder_blocks": 2}
    | {"patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1]},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8, "n_head": 4},
    "bit": {"hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 16, "num_groups": 4},
}
"""What single kinds of networks need beside that."""
TASKS = {
    "causal language": ("CAUSAL_LM", "tokens"),
    "masked language": ("MASKED_LM", "tokens"),
    "encoder-decoder": ("SEQ_TO_SEQ_CAUSAL_LM", "tokens"),
    "text classes": ("SEQUENCE_CLASSIFICATION", "tokens and a class"),
    "image classes": ("IMAGE_CLASSIFICATION", "an image and a class"),
    "masked image": ("MASKED_IMAGE_MODELING", "an image with a mask"),
    "sound classes": ("AUDIO_CLASSIFICATION", "a sound and a class"),
    "sound to tokens": ("CTC", "a sound and tokens"),
    "speech": ("SPEECH_SEQ_2_SEQ", "a spectrum and tokens"),
    "image and text": ("IMAGE_TEXT_TO_TEXT", "an image and tokens"),
}
"""A group of families: the library's list of their classes, and what a batch holds."""


@dataclass(frozen=True)
class Row:
    """One family, as both read it."""

    group: str
    name: str
    tensors: int = 0
    truth: float | None = None
    here: float | None = None
    reason: str = ""

    @property
    def difference(self) -> float | None:
        """The relative difference of the losses."""
        return None if self.truth is None or self.here is None else abs(self.here - self.truth) / abs(self.truth)


def families(only: list[str]) -> Iterator[tuple[str, str, str]]:
    """Group, class and batch of what the library lists, each class once."""
    seen = set()
    for group, (mapping, batch) in TASKS.items():
        for model_type, names in getattr(modeling_auto, f"MODEL_FOR_{mapping}_MAPPING_NAMES").items():
            for name in [names] if isinstance(names, str) else names:
                if name not in seen and (not only or name in only or model_type in only):
                    seen.add(name)
                    yield group, name, batch


def small(kind: Any) -> dict[str, Any]:
    """Arguments for a small configuration of a class, and of those inside it."""
    known = inspect.signature(kind.__init__).parameters
    aliases = {ours: theirs for ours, theirs in kind.attribute_map.items() if theirs in known}
    values = {aliases.get(name, name): value for name, value in SMALL.items() if name in known or name in aliases}
    values |= {"num_labels": CLASSES, **OF_ONE.get(kind.model_type, {})}
    for name, inner in kind.sub_configs.items():
        if inner.__name__ != "AutoConfig" and name not in values:
            values[name] = small(inner)
    return values


def batch_of(what: str, model: Any) -> dict[str, torch.Tensor]:
    """A batch of a kind, the same for everyone."""
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, WORDS, (ROWS, LENGTH), generator=draw)
    classes = torch.randint(CLASSES, (ROWS,), generator=draw)
    channels = getattr(model.config, "num_channels", 3)
    image = torch.randn(ROWS, channels, IMAGE, IMAGE, generator=draw)
    patches = (IMAGE // getattr(model.config, "patch_size", 8)) ** 2 if what == "an image with a mask" else 1
    bins = getattr(model.config, "num_mel_bins", 16)
    main = model.main_input_name
    sound = (
        torch.randn(ROWS, 2000, generator=draw)
        if main == "input_values"
        else torch.randn(ROWS, 128, bins, generator=draw)
    )
    return {
        "tokens": {"input_ids": tokens, "labels": tokens},
        "tokens and a class": {"input_ids": tokens, "labels": classes},
        "an image and a class": {main: image, "labels": classes},
        "an image with a mask": {main: image, "bool_masked_pos": torch.rand(ROWS, patches, generator=draw) > 0.5},
        "a sound and a class": {main: sound, "labels": classes},
        "a sound and tokens": {main: sound, "labels": tokens[:, :2]},
        "a spectrum and tokens": {main: sound.mT.contiguous(), "labels": tokens[:, :4]},
        "an image and tokens": {"pixel_values": image, "input_ids": tokens, "labels": tokens},
    }[what]


def first_line(error: BaseException) -> str:
    """An exception in a cell of a table."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:150]


def compare(group: str, name: str, what: str, directory: Path) -> Row:
    """One family by both."""
    kind = getattr(transformers, name)
    try:
        model = tiny(kind)
        model.save_pretrained(directory)
    except Exception as error:  # which of several hundred can be built this way is what is looked for
        return Row(group, name, reason=f"not built: {first_line(error)}")
    tensors = len(list(model.parameters()))
    reason = ""
    for kept in {what, "tokens"} if what == "an image and tokens" else {what}:
        try:
            batch = {key: value.clone() for key, value in batch_of(kept, model).items()}
            again = kind.from_pretrained(directory, attn_implementation="eager", dtype="float32").eval()
            again.config.use_cache = False
            with torch.no_grad():
                truth = again(**batch).loss.item()
        except Exception as error:
            reason = f"no loss by from_pretrained: {first_line(error)}"
            continue
        save_file(batch, directory / "batch.safetensors")
        try:
            options = BatchOptions(batch=str(directory / "batch.safetensors"), mode="eval")
            problem = open_problem(str(directory), ModelOptions(model="hf"), options, RunOptions()).problem
            return Row(group, name, tensors, truth, problem.base.loss)
        except FromageError as error:
            return Row(group, name, tensors, truth, reason=" ".join(str(error).replace(str(directory), "it").split()))
    return Row(group, name, tensors, reason=reason)


def tiny(kind: Any) -> Any:
    """A small network with random numbers in every parameter: zeros would hide that some are missing."""
    configuration = kind.config_class(**small(kind.config_class))
    configuration._attn_implementation = configuration._experts_implementation = "eager"
    configuration.decoder_start_token_id = 1
    with torch.device("meta"):
        size = sum(value.numel() for value in kind(configuration).parameters())
    if size > LARGEST:
        raise ValueError(f"{size} numbers")
    torch.manual_seed(0)
    model = kind(configuration).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def page(rows: list[Row]) -> str:
    """The table in Markdown, with what is refused below it."""
    compared = [row for row in rows if row.difference is not None]
    refused = [row for row in rows if row.truth is not None and row.here is None]
    missed = [row for row in rows if row.truth is None]
    agreeing = sum(row.difference is not None and row.difference < ROUNDING for row in compared)
    lines = [
        "# `--model hf` beside `from_pretrained`",
        "",
        f"The two losses agree to seven digits for {agreeing} of {len(compared)} classes of transformers "
        f"{transformers.__version__}. Refused of those that `from_pretrained` reads: {len(refused)}.",
        "",
        "Each class was built tiny from its configuration, with random numbers in every parameter, and saved by "
        "`save_pretrained`. Both read it back and took the loss of one batch, in float32, with attention and experts "
        "computed step by step. `python benchmarks/hugging_face_families.py --write docs/hugging-face-families.md` "
        "compares whatever the library lists; names of classes or kinds before it choose among them.",
        "",
        f"{len(missed)} further classes that were asked for were not compared: they are not small with the numbers "
        "that the script gives them, or need inputs that it does not make.",
        "",
        "| group | class | tensors | `from_pretrained` | `--model hf` | relative difference |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.group} | {row.name} | {row.tensors} | {row.truth:.8f} | {row.here:.8f} | {row.difference:.1e} |"
        for row in compared
    ]
    if refused:
        lines += ["", "Refused:", "", *(f"- {row.name}: {row.reason}" for row in refused)]
    lines += ["", *NOTES]
    return "\n".join(lines) + "\n"


NOTES = (
    "`YoutuForCausalLM`: `from_pretrained` sets the padding token's row of the embedding to zero, whatever the file "
    "holds; `--model hf` takes the file's row. Trained files hold zeros there.",
)


def main() -> None:
    """Compare the families that are named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    rows = []
    for group, name, what in families(arguments.names):
        with tempfile.TemporaryDirectory() as directory:
            row = compare(group, name, what, Path(directory))
        rows.append(row)
        print(json.dumps(astuple(row)), row.difference, flush=True)
    if arguments.write is not None:
        arguments.write.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
