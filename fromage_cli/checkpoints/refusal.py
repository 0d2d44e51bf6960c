"""What PyTorch's restricted loader means when it raises: refused as unsafe, cut off, or damaged."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from fromage_cli.checkpoints.files import quoted
from fromage_cli.checkpoints.pickled_names import foreign_names
from fromage_cli.errors import FromageError, InputError, ResourceError, UnsafeError

_GLOBALS = (
    re.compile(r"GLOBAL (\S+) was not an allowed global"),
    re.compile(r"unsupported GLOBAL (\S+) whose module"),
    re.compile(r"unrecognized function (\S+)"),
    re.compile(r"Can only (?:create|build).* but got (.+)"),
    re.compile(r"``(torch\.\S+?)``.* must be imported"),
)
_CUT_OFF = re.compile(r"central directory|unexpected EOF|Ran out of input|unexpected end|corrupt file", re.IGNORECASE)


def explain_failure(path: Path, error: Exception) -> FromageError:
    """Return the error that tells a user why the restricted loader did not read a file."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and (wanted := _wanted(path, text)):
        return UnsafeError(
            f"{quoted(path)} asks for {wanted} while it is read. The restricted loader refused; nothing was executed.",
            hint="It holds more than tensors: a whole model, settings, or an attack. Where it was made, save the "
            "weights alone: torch.save(model.state_dict(), 'weights.pt') or safetensors.",
        )
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return ResourceError(
            f"{quoted(path)} needs more memory than there is.", hint="Save it as safetensors elsewhere."
        )
    if "Invalid magic number" in text:
        return InputError(
            f"{quoted(path)} is a Python pickle that torch.save did not write.",
            hint="Save the weights with torch.save(model.state_dict(), 'weights.pt') or as safetensors.",
        )
    reason = f"{type(error).__name__}: {_essence(text)}"
    if isinstance(error, EOFError) or _CUT_OFF.search(text):
        return InputError(
            f"{quoted(path)} is incomplete: {reason}",
            hint="It was cut off while it was written or copied; take an earlier checkpoint or copy it again.",
        )
    return InputError(
        f"{quoted(path)} cannot be read as a PyTorch file: {reason}",
        hint="It is damaged, was cut off, or is a pickle of another kind; save it again with torch.save's defaults.",
    )


def _wanted(path: Path, text: str) -> str | None:
    """Return the name that the loader refused; it does not know the opcodes by which later protocols ask for names."""
    for pattern in _GLOBALS:
        if found := pattern.search(text):
            return found.group(1).rstrip(".")
    names = foreign_names(path) if "Unsupported operand" in text else []
    return names[0] if names else None


def _essence(text: str) -> str:
    """Return what an error says, without PyTorch's advice around it."""
    core = text.rsplit("WeightsUnpickler error:", maxsplit=1)[-1].split("Check the documentation", maxsplit=1)[0]
    lines = [line.strip() for line in core.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason given"
