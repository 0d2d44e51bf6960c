"""What the files of a ZeRO checkpoint hold more than once.

Stages 1 and 2 keep the 16-bit weights beside the float32 ones, which every step rounds to them. Stage 3 repeats the
buffers in each rank's file. In all stages each rank saves the optimizer's settings and its count of updates.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fromage_cli.checkpoints.checkpoint import Copy, Replica
from fromage_cli.checkpoints.formats.flat_tensor import FlatTensor
from fromage_cli.checkpoints.formats.zero_files import ZeroFiles
from fromage_cli.checkpoints.layers import BUFFERS
from fromage_cli.checkpoints.optimizers.saved_optimizer import GROUPS, PARAMETERS, STATE
from fromage_cli.checkpoints.pickles.allowance import Repetition
from fromage_cli.checkpoints.storage.stored_tensor import COUNT_LIMIT, StoredTensor, inline

MOST_NUMBERS = 4
"""Numbers in one setting: betas are two or three."""


def zero_replicas(
    files: ZeroFiles, tensors: Mapping[str, StoredTensor], tied: Sequence[Sequence[str]]
) -> tuple[Replica, ...]:
    """Return the tensors, buffers and settings that lie in several places; `tensors` are those that are read, by name.

    Running statistics are left out: each rank has its own.
    """
    aliases = {name for group in tied for name in group[1:]}
    kept_by = {
        id(part.storage): file
        for state, file in zip(files.states, files.state_files, strict=True)
        for vectors in state.values()
        for part in (vectors if isinstance(vectors, list | tuple) else ())
        if isinstance(part, StoredTensor)
    }
    copies: dict[str, list[Copy]] = {}
    for file, model in zip(files.model_files, files.models, strict=True):
        module = model.get("module")
        for name, held in module.items() if isinstance(module, Mapping) else ():
            read = tensors.get(str(name))
            if read is None or name in aliases or str(name).endswith(BUFFERS) or not isinstance(held, StoredTensor):
                continue
            if held.numel() and held.place != read.place:  # stage 3 leaves empty tensors in the place of parameters
                copies.setdefault(str(name), []).append(Copy(held, (file,)))
    found = []
    for name, others in copies.items():
        read = tensors[name]
        parts = read.stretches() if isinstance(read, FlatTensor) else (read,)
        owners = dict.fromkeys(kept_by.get(id(part.storage), files.model_files[0]) for part in parts)
        trained = isinstance(read, FlatTensor) or files.stage < 3
        found.append(Replica(name, (Copy(read, tuple(owners)), *others), "tensor" if trained else "buffer"))
    return (*found, *_settings(files))


def _settings(files: ZeroFiles) -> Iterator[Replica]:
    """Yield the numbers of the optimizer that every rank has saved."""
    copies: dict[str, list[Copy]] = {}
    repetition = Repetition()
    if len(files.optimizers) < len(files.state_files):
        return
    for file, saved in zip(files.state_files, files.optimizers, strict=True):
        for name, number in _numbers(saved, repetition):
            copies.setdefault(name, []).append(Copy(number, (file,)))
    for name, ranks in copies.items():
        if len(ranks) > 1:
            yield Replica(name, tuple(ranks), "setting")


def _numbers(saved: Mapping[str, Any], repetition: Repetition) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the settings of each group and the updates that its slots count, by name."""
    groups, slots = saved.get(GROUPS), saved.get(STATE)
    held = [(f"of group {place}", group) for place, group in enumerate(groups if isinstance(groups, list) else ())]
    if isinstance(slots, Mapping):
        held += [(f"of state {number}", slot) for number, slot in repetition.look(slots).items()]
    for where, values in held:
        for name, value in repetition.look(values).items() if isinstance(values, Mapping) else ():
            if isinstance(value, StoredTensor) and (not value.shape or (name == "step" and value.numel() == 1)):
                yield f"{name} {where}", value
            numbers = value if isinstance(value, list | tuple) else [value]
            if name != PARAMETERS and 0 < len(numbers) <= MOST_NUMBERS and all(map(_is_number, numbers)):
                stored = struct.pack(f"<{len(numbers)}d", *numbers)
                storage = inline("", "float64", stored)
                yield f"{name} {where}", StoredTensor("float64", (len(numbers),), (1,), 0, storage)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < COUNT_LIMIT)
