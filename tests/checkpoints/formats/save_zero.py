"""Writes checkpoints as DeepSpeed's ZeRO lays them out, from a network and an optimizer of one process.

Source: deepspeed/runtime/engine.py, zero/stage_1_and_2.py, zero/stage3.py and utils/zero_to_fp32.py.
"""

import enum
import math
from collections import OrderedDict

import torch


class ZeroStageEnum(enum.IntEnum):
    """Pickled as DeepSpeed's own is: a class that the reader does not know."""

    optimizer_states = 1
    gradients = 2
    weights = 3


class LossScaler:
    def __init__(self):
        self.cur_scale = 1.0


def cut_over_ranks(group, ranks, lean):
    """Stages 1 and 2: end to end, padded to a multiple of 2 * ranks, an equal stretch each; the padding left out."""
    flat = torch.cat([tensor.float().flatten() for tensor in group])
    size = 2 * ranks * math.ceil(len(flat) / (2 * ranks)) // ranks
    padded = torch.cat([flat, torch.zeros(size * ranks - len(flat))])
    return [part[: max(0, len(flat) - rank * size)] if lean else part for rank, part in enumerate(padded.split(size))]


def cut_each(group, ranks):
    """Stage 3: every tensor padded and cut, and the parts of each rank end to end."""
    parts = []
    for tensor in group:
        size = math.ceil(tensor.numel() / ranks)
        padded = torch.cat([tensor.float().flatten(), torch.zeros(size * ranks - tensor.numel())])
        parts.append(padded.split(size) if size else [padded] * ranks)
    return [torch.cat([part[rank] for part in parts]) for rank in range(ranks)]


def save_zero(directory, model, optimizer, stage, ranks, step, narrow=torch.float16):
    """`narrow`: the dtype of the copy, and of buffers, which have no other."""
    directory.mkdir(parents=True)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [group["params"] for group in optimizer.param_groups]
    frozen = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
    half = {
        name: tensor.to(narrow) if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
    }
    buffers = [name for name, _ in model.named_buffers()]
    model_states = {
        "module": OrderedDict(half),
        "buffer_names": buffers,
        "optimizer": None,
        "param_shapes": [OrderedDict((names[p], p.shape) for p in group) for group in groups],
        "frozen_param_shapes": {name: p.shape for name, p in frozen.items()},
        "shared_params": {},
        "frozen_param_fragments": {name: p.detach().to(narrow) for name, p in frozen.items()},
        "global_steps": step,
        "dp_world_size": ranks,
        "ds_config": {"zero_optimization": {"stage": stage}},
        "ds_version": "0.18.0",
    }

    def cut(values, lean):
        return [cut_each(group, ranks) if stage == 3 else cut_over_ranks(group, ranks, lean) for group in values]

    master = cut([[p.detach() for p in group] for group in groups], lean=True)
    slots = {
        slot: cut([[optimizer.state[p][slot] for p in group] for group in groups], lean=False)
        for slot in ("exp_avg", "exp_avg_sq")
    }
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    for rank in range(ranks):
        base = {
            "state": {
                index: {slot: values[index][rank] for slot, values in slots.items()} | {"step": torch.tensor(2.0)}
                for index in range(len(groups))
            },
            "param_groups": [{**group, "params": [index]} for index, group in enumerate(settings)],
        }
        state = {"zero_stage": ZeroStageEnum(stage), "loss_scaler": LossScaler(), "partition_count": ranks}
        if stage == 3:
            state |= {"optimizer_state_dict": base, "fp32_flat_groups": [group[rank] for group in master]}
            part = {name: cut_each([p.detach()], ranks)[rank].to(narrow) for name, p in frozen.items()}
            own = {**model_states, "frozen_param_fragments": part}
            own["module"] = OrderedDict((name, half[name] if name in buffers else torch.empty(0)) for name in half)
            torch.save(own, directory / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        else:
            state |= {
                "base_optimizer_state": base,
                "single_partition_of_fp32_groups": [group[rank] for group in master],
            }
            state["partition_count"] = [ranks] * len(groups)
        saved = {"optimizer_state_dict": state, "ds_config": {}, "ds_version": "0.18.0"}
        torch.save(saved, directory / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    if stage < 3:
        torch.save(model_states, directory / "mp_rank_00_model_states.pt")
    (directory.parent / "latest").write_text(directory.name)
