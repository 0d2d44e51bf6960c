"""The learning-rate range test as a baseline: one run at an exponentially rising rate, and what is read off its losses.

After Smith, *Cyclical learning rates for training neural networks*, 2017, with the settings of fastai's `lr_find`: 100
steps from 1e-7 to 10, losses smoothed exponentially (.98, without bias), stopped above four times the least. Three
readings: where the smoothed loss falls most steeply (Lightning's), a tenth of the rate where it is least (fastai's
`minimum`), and the middle of the longest fall (fastai's `valley`).
"""

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from learning_rate_networks import Task
from learning_rate_training import batches, make_optimizer

STEPS = 100
LOWEST, HIGHEST = 1e-7, 10.0
SMOOTHING = 0.98
STOP = 4.0
"""Times the least smoothed loss."""
SKIPPED = (10, 1)
"""Steps left out where the steepest fall is sought, at the beginning and at the end, as in Lightning."""


def range_test(task: Task, optimizer_name: str, seed: int, data: Path | None) -> dict[str, object]:
    """The rates and smoothed losses of one run from a new initialisation, and the three readings."""
    model = task.model(seed)
    optimizer = make_optimizer(optimizer_name, model.parameters(), LOWEST)
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for step, (inputs, targets) in enumerate(islice(batches(task.rows(data)[0], task.batch_size, seed=77), STEPS)):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = task.loss(model(inputs), targets)
        average = SMOOTHING * average + (1.0 - SMOOTHING) * loss.item()
        smoothed = average / (1.0 - SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed) or (losses and smoothed > STOP * min(losses)):
            break
        rates.append(rate)
        losses.append(smoothed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    readings = {"steepest": steepest(losses), "tenth": int(np.argmin(losses)), "valley": valley(losses)}
    found = {name: rates[place] * (0.1 if name == "tenth" else 1.0) for name, place in readings.items()}
    return {"estimates": {f"finder-{name}": rate for name, rate in found.items()}, "steps": len(rates)}


def steepest(losses: Sequence[float]) -> int:
    """The step around which the losses fall most steeply."""
    first, last = SKIPPED
    return first + int(np.argmin(np.gradient(losses[first : len(losses) - last])))


def valley(losses: Sequence[float]) -> int:
    """The middle of the longest falling subsequence, which is taken to stand without gaps before its last step."""
    lengths = [1] * len(losses)
    for end in range(len(losses)):
        longest = max((lengths[before] for before in range(end) if losses[before] > losses[end]), default=0)
        lengths[end] = longest + 1
    last = int(np.argmax(lengths))
    return last - lengths[last] // 2
