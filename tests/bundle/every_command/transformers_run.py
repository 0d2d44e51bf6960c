"""A run of transformers: a small BERT with dropout that tells three kinds of rows apart, under AdamW."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromage_cli.callbacks.transformers import BundleCallback


def network() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(vocab_size=17, max_position_embeddings=8, num_labels=3, **sizes))


def rows(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    words, kinds = torch.randint(17, (12, 8), generator=generator), torch.randint(3, (12,), generator=generator)
    return {"input_ids": words, "attention_mask": (words > 2).long(), "labels": kinds}


loss = "auto"


def train(place: Path) -> None:
    """Train for six steps; every third one writes a bundle, and the trainer's own checkpoint."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(place / "files"),
        max_steps=6,
        per_device_train_batch_size=12,
        report_to=[],
        save_steps=3,
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
    )
    data: Any = [{name: value[row] for name, value in rows().items()} for row in range(12)]
    model: Any = network()

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(data)

    InOrder(model, arguments, train_dataset=data, callbacks=[BundleCallback(place / "bundles", 3)]).train()
