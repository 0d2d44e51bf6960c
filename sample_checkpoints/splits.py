"""The data behind the sample checkpoints: scikit-learn's digits and the opening of Shakespeare's Coriolanus."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from sklearn.datasets import load_digits

Rows = tuple[torch.Tensor, torch.Tensor]  # inputs and integer targets, first dimension shared
TEXT = Path(__file__).parent / "text" / "coriolanus.txt"
SEQUENCE_LENGTH = 64


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows held out, normalised alike where they are images."""

    train: Rows
    held_out: Rows


@cache
def digits() -> Split:
    """Return scikit-learn's digits, a fifth held out at random, normalised by the training rows' mean and standard
    deviation: 64 brightnesses each.
    """
    images, targets = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32), torch.tensor(targets, dtype=torch.int64)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    held_out, train = order.split([len(y) // 5, len(y) - len(y) // 5])
    x = (x - x[train].mean()) / x[train].std()
    return Split((x[train], y[train]), (x[held_out], y[held_out]))


@cache
def digit_images() -> Split:
    """Return the same digits in the same order as images, 1 × 8 × 8."""
    (x, y), (x_held_out, y_held_out) = digits().train, digits().held_out
    return Split((x.view(-1, 1, 8, 8), y), (x_held_out.view(-1, 1, 8, 8), y_held_out))


@cache
def characters() -> Split:
    """Return the text cut into sequences of 64 characters, each target the character after its input; the last tenth
    of the text is held out.

    A character is coded by its place among the text's own characters, sorted.
    """
    text = TEXT.read_text(encoding="ascii")
    code = {character: place for place, character in enumerate(sorted(set(text)))}
    coded = torch.tensor([code[character] for character in text])
    held_out = len(coded) // 10
    return Split(_sequences(coded[:-held_out]), _sequences(coded[-held_out:]))


def _sequences(coded: torch.Tensor) -> Rows:
    """Cut into non-overlapping sequences of inputs and of targets, one place on; an incomplete last one is dropped."""
    count = (len(coded) - 1) // SEQUENCE_LENGTH
    x, y = coded[: count * SEQUENCE_LENGTH], coded[1 : count * SEQUENCE_LENGTH + 1]
    return x.view(count, SEQUENCE_LENGTH), y.view(count, SEQUENCE_LENGTH)  # sequences × characters


def held_out_images() -> Rows:
    """Return the images held out, for `--val-batch sample_checkpoints/splits.py:held_out_images`."""
    return digit_images().held_out


def held_out_text() -> Rows:
    """Return the sequences held out, for `--val-batch sample_checkpoints/splits.py:held_out_text`."""
    return characters().held_out
