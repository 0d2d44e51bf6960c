"""Healthy runs of the study of `state` whose checkpoints libraries write: the real ones, where they are installed.

accelerate, lightning, torchmetrics, lightning-utilities and deepspeed are not needed by the package; the study says
which runs it left out without them.
"""

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from state_runs import Recipe, Training, build, train, training_rows
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

Writer = Callable[[Path, Path | None], list[Path]]


def text_of(data: Path | None) -> list[dict[str, torch.Tensor]]:
    """Rows of characters as the Trainer takes them."""
    return [{"input_ids": row, "labels": row} for row in training_rows("text", data)[0][:4000]]


class _Rows(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, found: list[dict[str, torch.Tensor]]) -> None:
        self.found = found

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return self.found[place]


def trainer(folder: Path, data: Path | None, settings: dict[str, Any], stop: int | None = None) -> list[Path]:
    """A small GPT-2 under the Trainer of transformers; `stop`: a step at which a second process goes on."""
    import transformers

    def made(resume: bool) -> None:
        transformers.set_seed(0)
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=65, n_positions=32, n_embd=32, n_layer=2, n_head=2)
        )
        usual = {"learning_rate": 3e-3, "max_steps": 120, "save_steps": 30, "per_device_train_batch_size": 8}
        arguments = transformers.TrainingArguments(
            str(folder), **usual | settings, use_cpu=True, report_to=[], logging_steps=10, disable_tqdm=True
        )

        class Stopping(transformers.TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                control.should_training_stop |= state.global_step == stop and not resume

        once = transformers.Trainer(model, arguments, train_dataset=_Rows(text_of(data)), callbacks=[Stopping()])
        once.train(resume_from_checkpoint=resume)

    made(resume=False)
    if stop is not None:
        made(resume=True)
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def lightning(folder: Path, data: Path | None, settings: dict[str, Any], optimizer: str, stop: int) -> list[Path]:
    """A perceptron under Lightning, whose second process goes on at a step."""
    from lightning import pytorch

    class Network(pytorch.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = build(Recipe("lightning", "mlp", optimizer, 1e-3))

        def training_step(self, batch: list[torch.Tensor], place: int) -> torch.Tensor:
            return cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            kinds = {
                "adamw": lambda: torch.optim.AdamW(self.parameters(), 2e-3, weight_decay=0.1),
                "sgd": lambda: torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, nesterov=True),
            }
            made = kinds[optimizer]()
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(made, 120)
            return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def fit(steps: int, path: Path | None) -> None:
        pytorch.seed_everything(0, verbose=False)
        saving = pytorch.callbacks.ModelCheckpoint(folder, every_n_train_steps=30, save_top_k=-1)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        made = pytorch.Trainer(
            max_steps=steps, max_epochs=-1, accelerator="cpu", callbacks=[saving], **quiet, **settings
        )
        rows = TensorDataset(*training_rows("mnist", data))
        made.fit(Network(), DataLoader(rows, 32, shuffle=True), ckpt_path=path)

    fit(stop, None)
    fit(120, next(folder.glob(f"*step={stop}.ckpt")))
    return sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.rpartition("=")[2]))


def distributed(folder: Path, data: Path | None, recipe: Recipe) -> list[Path]:
    """A run in directories of torch.distributed.checkpoint."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict

    paths: list[Path] = []

    def save(training: Training, step: int) -> None:
        paths.append(folder / f"step-{step:06d}")
        model, optimizer = get_state_dict(training.model, training.optimizer)
        checkpoint.save({"model": model, "optim": optimizer}, checkpoint_id=paths[-1], no_dist=True)

    train(recipe, data, save)
    return paths


def deepspeed(folder: Path, data: Path | None, stage: int, precision: str) -> list[Path]:
    """A perceptron under DeepSpeed's ZeRO, in one process on the CPU; 16-bit weights beside float32 masters."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29777", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    for name, value in place.items():
        os.environ.setdefault(name, value)
    import deepspeed as library

    torch.manual_seed(0)
    model = build(Recipe("deepspeed", "mlp", "adamw", 2e-3))
    made = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    library.init_distributed("gloo", verbose=False)
    settings = {
        "train_batch_size": 32,
        precision: {"enabled": True},
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 1.0,
    }
    engine, *_ = library.initialize(model=model, optimizer=made, model_parameters=model.parameters(), config=settings)
    dtype, paths = next(engine.module.parameters()).dtype, []
    loader = DataLoader(TensorDataset(*training_rows("mnist", data)), 32)
    for step, (x, y) in enumerate(islice(loader, 60), 1):
        engine.backward(cross_entropy(engine(x.to(dtype)).float(), y))
        engine.step()
        if step in (10, 20, 40, 60):
            engine.save_checkpoint(str(folder), tag=f"global_step{step}")
            paths.append(folder / f"global_step{step}")
    return paths


LIBRARIES: dict[str, tuple[str, Writer]] = {
    "trainer": (
        "accelerate",
        lambda folder, data: trainer(folder, data, {"lr_scheduler_type": "cosine", "warmup_steps": 20}),
    ),
    "trainer-resumed": (
        "accelerate",
        lambda folder, data: trainer(folder, data, {"weight_decay": 0.1, "gradient_accumulation_steps": 2}, stop=60),
    ),
    "trainer-bf16-95": (
        "accelerate",
        lambda folder, data: trainer(folder, data, {"bf16": True, "adam_beta2": 0.95, "optim": "adamw_torch"}),
    ),
    "lightning-adamw": ("lightning", lambda folder, data: lightning(folder, data, {}, "adamw", 60)),
    "lightning-sgd-bf16": (
        "lightning",
        lambda folder, data: lightning(folder, data, {"precision": "bf16-mixed"}, "sgd", 90),
    ),
    "distributed-adamw": (
        "torch",
        lambda folder, data: distributed(
            folder, data, Recipe("", "gpt", "adamw", 3e-3, {"betas": (0.9, 0.95)}, saved=(1, 50, 100, 150))
        ),
    ),
    "distributed-sgd": (
        "torch",
        lambda folder, data: distributed(
            folder, data, Recipe("", "cnn", "sgd", 0.05, {"momentum": 0.9}, saved=(1, 50, 100, 150))
        ),
    ),
    "deepspeed-2-bf16": ("deepspeed", lambda folder, data: deepspeed(folder, data, 2, "bf16")),
    "deepspeed-3-bf16": ("deepspeed", lambda folder, data: deepspeed(folder, data, 3, "bf16")),
    "deepspeed-1-fp16": ("deepspeed", lambda folder, data: deepspeed(folder, data, 1, "fp16")),
}
"""By name: the library that it needs, and what writes it."""
