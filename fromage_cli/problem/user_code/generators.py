"""The global random generators of torch, Python and numpy: losses and models of users draw from all of them."""

import random

import numpy as np
import torch


class Draws:
    """Notices whether anything is drawn from generators that were just seeded."""

    def __init__(self) -> None:
        self.python, self.numpy, self.noticed = random.getstate(), np.random.get_state(), False

    def look(self) -> bool:
        """Whether anything was drawn so far; to be asked before torch's generators are seeded again."""
        if not self.noticed:
            fresh = torch.Generator().manual_seed(torch.default_generator.initial_seed())
            self.noticed = (
                not torch.equal(torch.default_generator.get_state(), fresh.get_state())
                or (_on_cuda() and any(generator.get_offset() for generator in torch.cuda.default_generators))
                or random.getstate() != self.python
                or any(np.any(now != then) for now, then in zip(np.random.get_state(), self.numpy, strict=True))
            )
        return self.noticed


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
