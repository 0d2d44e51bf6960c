"""DeepSpeed's ZeRO checkpoints, stages 1 to 3: float32 master weights cut over the files of all ranks.

mp_rank_00_model_states.pt            names, shapes, buffers, the 16-bit copy; stage 3: one file a rank
zero_pp_rank_R_mp_rank_00_optim_states.pt   rank R's part of the float32 weights and of the optimizer's state

Stages 1 and 2 lay the parameters of a group end to end and pad them. Each rank gets an equal stretch. Stage 3 cuts
every parameter into equal stretches, the last one padded. Each rank lays its own end to end. Source:
deepspeed/utils/zero_to_fp32.py and deepspeed/runtime/zero of DeepSpeed 0.14 to 0.18.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.checkpoint import Contents, entries_of
from fromage_cli.checkpoints.formats.flat_tensor import FlatTensor, FlatVector, is_vector
from fromage_cli.checkpoints.formats.zero_files import MASTER_3, ZeroFiles, read_files
from fromage_cli.checkpoints.formats.zero_replicas import zero_replicas
from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.checkpoints.names.steps import step_in_metadata
from fromage_cli.checkpoints.nested.remainder import described
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState
from fromage_cli.checkpoints.optimizers.saved_optimizer import GROUPS, PARAMETERS, STATE, parse_optimizer
from fromage_cli.checkpoints.pickles.allowance import Repetition
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor, is_shape

MASTER = "single_partition_of_fp32_groups"
"""Where stages 1 and 2 keep a rank's float32 weights."""
LAYOUT = frozenset({"module", "optimizer", "param_shapes", "buffer_names", "shared_params"}) | {
    *("frozen_param_shapes", "frozen_param_fragments"),
}
"""What says where weights and the optimizer's state lie."""
MOST_SLOTS = 32
"""Things that an optimizer remembers of a parameter: it has two or three."""
Shapes = Mapping[str, tuple[int, ...]]


def read_deepspeed(path: Path) -> Contents:
    """Put the float32 master weights of a ZeRO checkpoint together; `path` is one of its model_states files.

    Raises InputError where ranks are missing or the parts do not add up, and for tensor- and pipeline-parallel shards.
    """
    files = read_files(path)
    zero = _Zero(files)
    tensors, tied = zero.tensors()
    module = zero.model.get("module")
    in_order = [str(name) for name in module if str(name) in tensors] if isinstance(module, Mapping) else []
    ordered = {name: tensors[name] for name in [*in_order, *tensors]}
    copy = " instead of the 16-bit copy, which --key module takes" if zero.stage < 3 else ""
    return Contents(
        format="deepspeed-zero-3" if zero.stage == 3 else "deepspeed-zero",
        entries=entries_of(ordered),
        find=tensors.__getitem__,
        step=step_in_metadata(zero.model),
        notes=(f"Took the float32 master weights, put together from {zero.ranks} ranks{copy}.",),
        tied=tied,
        read_optimizer=zero.optimizer,
        describe_rest=lambda: described({str(name): held for name, held in zero.model.items() if name not in LAYOUT}),
        find_replicas=lambda: zero_replicas(files, tensors, tied),
    )


class _Zero:
    """The layout of one checkpoint."""

    def __init__(self, files: ZeroFiles) -> None:
        self._files = files
        self.stage, self.states, self.models = files.stage, files.states, files.models
        self.model, self.ranks = files.models[0], len(files.states)
        self._cut = self._cut_parameters if self.stage == 3 else self._cut_groups
        groups = self.model.get("param_shapes")
        if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
            raise files.damaged("it does not list the parameters' shapes")
        self.shapes: list[Shapes] = [
            {str(name): self._shape(name, shape) for name, shape in group.items()} for group in groups
        ]
        """Of the parameters, group by group, in the order in which they were laid end to end."""

    def tensors(self) -> tuple[dict[str, StoredTensor], tuple[tuple[str, ...], ...]]:
        """Return buffers, frozen and trained tensors by name, and which names are one."""
        module, names = self.model.get("module"), self.model.get("buffer_names")
        buffers = {name for name in names if isinstance(name, str)} if isinstance(names, list | tuple | set) else set()
        found: dict[str, StoredTensor] = {
            str(name): tensor
            for name, tensor in (module.items() if isinstance(module, Mapping) else ())
            if isinstance(tensor, StoredTensor) and name in buffers
        }
        masters = [state.get(MASTER_3 if self.stage == 3 else MASTER) for state in self.states]
        for vectors in masters:
            if not isinstance(vectors, list | tuple) or not vectors or not all(map(is_vector, vectors)):
                raise self._files.damaged("a rank's file holds no float32 weights")
        found |= self._frozen()
        found |= self._cut([list(vectors) for vectors in masters if vectors])
        shared = self.model.get("shared_params")
        tied: dict[str, list[str]] = {}
        for alias, name in shared.items() if isinstance(shared, Mapping) else ():
            if isinstance(name, str) and name in found and str(alias) not in found:
                found[str(alias)] = found[name]
                tied.setdefault(name, [name]).append(str(alias))
        return found, tuple(map(tuple, tied.values()))

    def optimizer(self) -> OptimizerState | None:
        """Return the optimizer's state, each slot put together as the weights are; None where it is not there."""
        bases = self._files.optimizers
        if len(bases) < self.ranks or not all(isinstance(base.get(STATE), Mapping) for base in bases):
            return None
        groups = bases[0].get(GROUPS)
        if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
            return None
        slots, repetition = self._slots(bases), Repetition()
        named = []
        for index, group in enumerate(map(repetition.look, groups)):
            numbers = group.get(PARAMETERS)
            held = numbers if self.stage == 3 and isinstance(numbers, list) else [index]  # several of those laid out
            known = [number for number in repetition.look(held) if type(number) is int and number < len(self.shapes)]
            owners = [repetition.look(self.shapes[number]) for number in known]
            named.append({**group, PARAMETERS: [name for shapes in owners for name in shapes]})
            for name in named[-1][PARAMETERS] if "step" in group else ():
                slots.setdefault(name, {}).setdefault("step", group["step"])
        return parse_optimizer({STATE: slots, GROUPS: named})

    def _slots(self, bases: list[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return slots by parameter and name: tensors cut as the weights are, numbers as they stand for the group."""

        def numbered(pair: tuple[Any, Any]) -> tuple[int, str]:
            return (pair[0] if type(pair[0]) is int else 0, str(pair[0]))

        ranks = [[state for _, state in sorted(base[STATE].items(), key=numbered)] for base in bases]
        ranks = [[state if isinstance(state, Mapping) else {} for state in states] for states in ranks]
        slots: dict[str, dict[str, Any]] = {}
        kinds = dict.fromkeys(name for state in map(Repetition().look, ranks[0]) for name in state)
        if len(kinds) > MOST_SLOTS:
            raise self._files.damaged(f"its optimizer keeps {len(kinds)} values for each parameter")
        for slot in kinds:
            values = [[state.get(slot) for state in states] for states in ranks]
            if all(is_vector(value) for rank in values for value in rank):
                found: dict[str, Any] = dict(self._cut(values))
            else:
                pairs = zip(self.shapes, values[0], strict=False)
                found = {name: value for shapes, value in pairs for name in shapes}
            for name, value in found.items():
                slots.setdefault(name, {})[slot] = value
        return slots

    def _cut_groups(self, vectors: list[list[StoredTensor]]) -> dict[str, StoredTensor]:
        """Return the parameters of stages 1 and 2: a group's lie end to end, and that vector is cut over the ranks."""
        found: dict[str, StoredTensor] = {}
        if any(len(rank) != len(self.shapes) for rank in vectors):
            raise self._files.damaged(
                f"{len(self.shapes)} groups of parameters are described, but {len(vectors[0])} are there"
            )
        for index, shapes in enumerate(self.shapes):
            flat, begin = FlatVector(tuple(rank[index] for rank in vectors)), 0
            for name, shape in shapes.items():
                found[name] = flat.tensor(begin, shape)
                begin += math.prod(shape)
            if math.ceil(begin / (2 * self.ranks)) != math.ceil(flat.size / (2 * self.ranks)):  # but for padding
                raise self._files.damaged(f"group {index} needs {begin} numbers, but its parts have {flat.size}")
        return found

    def _cut_parameters(self, vectors: list[list[StoredTensor]]) -> dict[str, StoredTensor]:
        """Return the parameters of stage 3: each is cut over the ranks, and a rank's parts lie end to end."""
        found: dict[str, StoredTensor] = {}
        flats, begin = [FlatVector(tuple(rank)) for rank in vectors], 0
        for name, shape in {name: shape for shapes in self.shapes for name, shape in shapes.items()}.items():
            share = math.ceil(math.prod(shape) / self.ranks)
            found[name] = FlatTensor(vectors[0][0].dtype, shape, stretches=partial(_stretches, flats, begin, share))
            begin += share
        if any(flat.size != begin for flat in flats):
            raise self._files.damaged(f"each rank needs {begin} numbers, but they have {[flat.size for flat in flats]}")
        return found

    def _frozen(self) -> dict[str, StoredTensor]:
        """Return the parameters that are not trained: whole in stages 1 and 2, in parts in stage 3."""
        shapes = self.model.get("frozen_param_shapes")
        if not isinstance(shapes, Mapping):
            return {}
        fragments = [model.get("frozen_param_fragments") for model in self.models]
        found: dict[str, StoredTensor] = {}
        for name, shape in shapes.items():
            parts = [part.get(name) if isinstance(part, Mapping) else None for part in fragments]
            whole = self._shape(name, shape)
            stored = [part for part in parts if isinstance(part, StoredTensor)]
            plain = self.stage < 3 or all(map(is_vector, stored))
            if not plain or len(stored) < len(parts) or sum(part.numel() for part in stored) < math.prod(whole):
                raise self._files.damaged(f"the frozen parameter {name!r} is not complete")
            cut = FlatTensor(stored[0].dtype, whole, stretches=partial(iter, stored))
            found[str(name)] = stored[0] if self.stage < 3 else cut
        return found

    def _shape(self, name: object, shape: Any) -> tuple[int, ...]:
        """Return the shape of a parameter; raises InputError for what is none."""
        if not is_shape(shape):
            raise self._files.damaged(f"parameter {brief(name)} has the shape {brief(shape)}")
        return tuple(shape)


def _stretches(ranks: Sequence[FlatVector], begin: int, count: int) -> Iterator[StoredTensor]:
    """Yield the elements from `begin` on of each rank's vectors."""
    for rank in ranks:
        yield from rank.stretches(begin, count)
