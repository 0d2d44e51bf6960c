"""The best rate of every pair of the learning-rate study, by training at rates an octave apart."""

import math
import time
from pathlib import Path

import torch
from learning_rate_pairs import Pair, follow
from learning_rate_results import Results
from torch import nn

OCTAVES = range(-4, 4)
"""Of the rates that are tried first, over the guess."""
BESIDE = 2
"""Octaves on each side of the best one that a second seed tries."""
TAIL, LOOKS = 0.1, 4
"""The last part of a run over which the held-out loss is averaged, and how often it is taken there."""
DIVERGED = 1e3
"""Loss over the first one at which a run is given up."""
LIMITS = (-12, 10)


def held_out_loss(pair: Pair, model: nn.Module, folder: Path) -> float:
    """In evaluation behaviour; infinite where it is not finite."""
    x, y = pair.held_out(folder)
    model.eval()
    with torch.no_grad():
        loss = float(pair.loss(model(x), y))
    model.train()
    return loss if math.isfinite(loss) else math.inf


def train(pair: Pair, rate: float, seed: int, folder: Path) -> dict[str, float]:
    """One whole run: held-out loss before, and its mean over the last tenth of the steps."""
    model, optimizer = pair.begin(seed, folder)
    start, stream = held_out_loss(pair, model, folder), pair.batches(folder, 1000 + seed)
    left = pair.steps - pair.made
    looks = {pair.steps - round(left * TAIL * place / LOOKS) for place in range(LOOKS)}
    found: list[float] = []
    for step in range(pair.made, pair.steps):
        loss = follow(pair, model, optimizer, rate * pair.rates.rate_factor(step), next(stream))
        if not loss < DIVERGED * start:
            return {"start": start, "end": math.inf}
        if step + 1 in looks:
            found.append(held_out_loss(pair, model, folder))
    return {"start": start, "end": math.fsum(found) / len(found)}


def search(pair: Pair, results: Results, folder: Path) -> float:
    """The best rate on the grid: every octave around the guess once, those around the best twice."""

    def end(octave: int, seed: int) -> float:
        entry = results.found.get((pair.key, octave, seed))
        if entry is None:
            started = time.process_time()
            rate = pair.guess * 2.0**octave
            entry = {"pair": pair.key, "octave": octave, "seed": seed, "rate": rate} | train(pair, rate, seed, folder)
            entry = results.add(entry | {"seconds": round(time.process_time() - started, 2)})
        return float(entry["end"])

    tried = {octave: end(octave, 0) for octave in OCTAVES}
    while True:
        best = min(tried, key=tried.__getitem__)
        further = [octave for octave in range(best - BESIDE, best + BESIDE + 1) if octave not in tried]
        if not further or not LIMITS[0] < best < LIMITS[1]:
            break
        tried |= {octave: end(octave, 0) for octave in further}
    means = {octave: (tried[octave] + end(octave, 1)) / 2.0 for octave in range(best - BESIDE, best + BESIDE + 1)}
    return pair.guess * 2.0 ** min(means, key=means.__getitem__)
