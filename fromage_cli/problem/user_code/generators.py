"""Random generators, those of torch, Python and numpy and users' own: losses and models draw from all of them."""

import pickle
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

OWN_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
"""What a model or a loss may draw from beside the global ones."""


def state_of(generator: Any) -> Any:
    """The state of a generator of its own kind."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state if isinstance(generator, np.random.Generator) else generator.get_state()


def put_state(generator: Any, state: Any) -> None:
    """Puts a generator into a state of it."""
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def seed_own(generator: Any, seed: int) -> None:
    """Seeds a generator."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        generator.seed(seed % 2**32)


class Draws:
    """Notices whether anything is drawn from generators that were just seeded, the global ones and others."""

    def __init__(self, own: Sequence[Any] = ()) -> None:
        self.python, self.numpy, self.noticed = random.getstate(), np.random.get_state(), False
        self.own = [(generator, pickle.dumps(state_of(generator))) for generator in own]

    def look(self) -> bool:
        """Whether anything was drawn so far; to be asked before torch's generators are seeded again."""
        if not self.noticed:
            fresh = torch.Generator().manual_seed(torch.default_generator.initial_seed())
            self.noticed = (
                not torch.equal(torch.default_generator.get_state(), fresh.get_state())
                or (_on_cuda() and any(generator.get_offset() for generator in torch.cuda.default_generators))
                or self.look_elsewhere()
                or any(pickle.dumps(state_of(generator)) != state for generator, state in self.own)
            )
        return self.noticed

    def look_elsewhere(self) -> bool:
        """Whether anything was drawn from generators that are not torch's."""
        return (
            random.getstate() != self.python
            or any(np.any(now != then) for now, then in zip(np.random.get_state(), self.numpy, strict=True))
            or any(
                pickle.dumps(state_of(generator)) != state
                for generator, state in self.own
                if not isinstance(generator, torch.Generator)
            )
        )


class Generators:
    """The generators as they stand, to be put back."""

    def __init__(self) -> None:
        self.states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
        self.accelerators = torch.cuda.get_rng_state_all() if _on_cuda() else []

    def restore(self) -> None:
        """Puts them back."""
        random.setstate(self.states[0])
        np.random.set_state(self.states[1])
        torch.default_generator.set_state(self.states[2])
        if self.accelerators:
            torch.cuda.set_rng_state_all(self.accelerators)


def seed_all(seed: int) -> None:
    """Seeds every one of them."""
    seed_torch(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def seed_torch(seed: int) -> None:
    """As `torch.manual_seed`, which costs a tenth of a millisecond where no accelerator is in use."""
    torch.default_generator.manual_seed(seed)
    if _on_cuda():
        torch.cuda.manual_seed_all(seed)


def _on_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
