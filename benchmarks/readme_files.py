"""The files that the commands of README.md and docs/ speak of, made small: a reader has his own in their place.

`my-run/checkpoint-100` is what the Trainer of transformers leaves, `out/ckpt.pt` what a nanoGPT-like script saves,
`untrusted.pt` a pickle that would run a command, and `train.py` writes bundles. `run` and `mended` are the tutorial's
two runs. Files whose text a page shows are
written from that page.
"""

import json
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from readme_terminal import ROOT

SHOWN_FILE = re.compile(r"^```(?:python|toml|bash)\n(# (?P<name>[\w./-]+)\n.*?)^```$", re.MULTILINE | re.DOTALL)
"""A block whose first line is a comment that holds nothing but the file's name."""
ROWS, LENGTH, STEPS, RATE = 16, 64, 100, 1e-3
"""Sequences and characters of a training batch, training steps, and the learning rate of AdamW."""


def make_files(directory: Path) -> None:
    """Write the samples, the files that pages show, and the checkpoints that a reader would have."""
    shutil.copytree(ROOT / "sample_checkpoints", directory / "sample_checkpoints")
    for page in pages():
        for block in SHOWN_FILE.finditer(page.read_text(encoding="utf-8")):
            written = directory / block["name"]
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(block[1], encoding="utf-8")
    (directory / "untrusted.pt").write_bytes(pickle.dumps({"weight": _Command()}))
    _python(directory, "train.py")
    _train_networks(directory)
    make_tutorial(directory)


def make_tutorial(directory: Path) -> None:
    """Train as the tutorial does, before and after its mend, and keep what was printed."""
    script = directory / "sample_checkpoints" / "tutorial.py"
    faulty = script.read_text(encoding="utf-8")
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    before, after = re.findall(r"^[-+](    torch.*\n)", page, re.MULTILINE)
    for run, text in (("run", faulty), ("mended", faulty.replace(before, after))):
        script.write_text(text, encoding="utf-8")
        printed = _python(directory, "sample_checkpoints/tutorial.py", run)
        (directory / f"{run}.txt").write_text(printed, encoding="utf-8")


def _python(directory: Path, *arguments: str) -> str:
    """What a script prints that runs in the directory, with one thread, so that it sums in one order."""
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=directory, check=True, env=settings, stdout=subprocess.PIPE, text=True).stdout


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class _Command:
    """What runs a command wherever it is unpickled without care."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return __import__("os").system, ("echo this would have run",)


def _train_networks(directory: Path) -> None:
    """Train both language models for a few seconds and save them as their programs do."""
    import numpy
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    text = (ROOT / "sample_checkpoints" / "text" / "coriolanus.txt").read_text(encoding="utf-8")
    letters = sorted(set(text))
    tokens = numpy.array([letters.index(letter) for letter in text], dtype=numpy.uint16)
    tokens[-10_000:].tofile(directory / "val.bin")
    shutil.copy(directory / "val.bin", directory / "tokens.bin")
    trained_on = torch.from_numpy(tokens[:-10_000].astype(numpy.int64))
    torch.manual_seed(0)
    sizes = {"vocab_size": len(letters), "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
    network = GPT2LMHeadModel(GPT2Config(n_positions=LENGTH, **sizes))
    optimizer = _train(network, lambda x, y: network(input_ids=x, labels=x).loss, trained_on)
    folder = directory / "my-run" / f"checkpoint-{STEPS}"
    network.save_pretrained(folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    state = {"global_step": STEPS, "max_steps": STEPS, "log_history": []}
    (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")

    torch.manual_seed(0)
    shown = runpy.run_path(str(directory / "model.py"))
    settings = {"block_size": LENGTH, "vocab_size": len(letters), "n_layer": 2, "n_head": 4, "n_embd": 64}
    network = shown["GPT"](shown["GPTConfig"](**settings))
    optimizer = _train(network, lambda x, y: network(x, y)[1], trained_on)
    saved = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "model_args": settings}
    (directory / "out").mkdir()
    torch.save(saved | {"iter_num": STEPS}, directory / "out" / "ckpt.pt")


def _train(network: Any, loss: Callable[[Any, Any], Any], tokens: Any) -> Any:
    """AdamW after its last step."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    for _ in range(STEPS):
        starts = torch.randint(len(tokens) - LENGTH - 1, (ROWS,)).tolist()
        rows = torch.stack([tokens[start : start + LENGTH + 1] for start in starts])
        optimizer.zero_grad()
        loss(rows[:, :-1], rows[:, 1:]).backward()
        optimizer.step()
    torch.set_num_threads(threads)
    return optimizer
