"""A training script as a cluster runs it: a small GPT on characters, which goes on where its run stopped.

The rate rises from 0 in the first steps, and is constant from there.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import models
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

EVERY = 100
"""Steps from one checkpoint to the next."""


def build() -> models.GPT:
    return models.char_gpt(width=32, heads=2, hidden=96)


def batches(step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Training batches from a step on: 16 sequences of 64 characters, and the character after each."""
    text = (Path(models.__file__).parent / "text" / "coriolanus.txt").read_text()
    code = {character: place for place, character in enumerate(sorted(set(text)))}
    sequences = torch.tensor([code[character] for character in text]).unfold(0, 65, 64)
    while True:
        rows = sequences[torch.randint(len(sequences), (16,), generator=torch.Generator().manual_seed(step))]
        yield rows[:, :-1], rows[:, 1:]
        step += 1


def train(run: Path, rate: float, warm_up: int, last: int) -> None:
    torch.manual_seed(1)
    model, step = build(), 0
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    run.mkdir(exist_ok=True)
    if saved := sorted(run.glob("step-*.pt")):
        state = torch.load(saved[-1])
        step = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    with (run / "losses.csv").open("a") as losses:
        for x, y in batches(step):
            if step == last:
                return
            step += 1
            optimizer.param_groups[0]["lr"] = rate * min(1.0, step / warm_up)
            loss = cross_entropy(model(x).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.write(f"{step},{loss.item()}\n")
            if step % EVERY == 0:
                losses.flush()
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                torch.save(state, run / f"step-{step:06d}.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--warmup-steps", type=int, default=20)
    parser.add_argument("--total-steps", type=int, required=True)
    given = parser.parse_args()
    train(given.run, given.lr, given.warmup_steps, given.total_steps)
