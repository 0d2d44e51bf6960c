"""Train the sample GPT with one fault in one layer: `python sample_checkpoints/tutorial.py RUN`.

It writes checkpoints into RUN, and the last one as a bundle into RUN-bundle. docs/tutorial.md finds the fault.
"""

import sys
from pathlib import Path

import torch
from models import GPT, char_gpt
from torch.nn.functional import cross_entropy

from fromage_cli import bundle

TEXT = Path(__file__).parent / "text" / "coriolanus.txt"
STEPS, WARM_UP, ROWS, LENGTH = 200, 50, 32, 64


def network() -> GPT:
    """Return the sample GPT, with weights of its own for queries, keys and values in the second block."""
    gpt = char_gpt()
    torch.nn.init.normal_(gpt.blocks[1].attention.input.weight)
    return gpt


def characters() -> torch.Tensor:
    """Return the text, each character as its place among all that occur, sorted."""
    text = TEXT.read_text(encoding="ascii")
    place = {character: index for index, character in enumerate(sorted(set(text)))}
    return torch.tensor([place[character] for character in text])


def train(run: Path) -> None:
    """Train with AdamW, print the loss and save a checkpoint every 50 steps, and save a bundle at the end."""
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    text, gpt = characters(), network()
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=0.003, betas=(0.9, 0.95), weight_decay=0.1)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARM_UP, total_iters=WARM_UP)
    losses = []
    for step in range(1, STEPS + 1):
        rows = text[torch.randint(len(text) - LENGTH, (ROWS, 1)) + torch.arange(LENGTH + 1)]
        x, y = rows[:, :-1], rows[:, 1:]
        loss = cross_entropy(gpt(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warm_up.step()
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step}: loss {sum(losses[-25:]) / 25:.2f}", flush=True)
            saved = {"model": gpt.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(saved, run / f"step-{step:03}.pt")
    bundle.save(f"{run}-bundle", gpt, (x, y), "cross-entropy", optimizer, STEPS)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
