"""The loss that a bundle was saved with: one of the named ones, or the user's own as a part of the graph."""

from torch import nn

from fromage_cli.checkpoints.formats.bundle import DAMAGED, Bundle
from fromage_cli.checkpoints.storage.files import quoted
from fromage_cli.errors import InputError, MismatchError
from fromage_cli.problem.graphs.reading import bundle_of
from fromage_cli.problem.losses.reported_losses import FunctionLoss
from fromage_cli.problem.user_code.forms import BUILT_IN_LOSSES


def bundled_loss(bundle: Bundle, network: nn.Module) -> tuple[str, FunctionLoss | None]:
    """The name of the loss as `--loss` takes it; and the loss itself, where the graph of the network has it.

    Raises MismatchError where it is in the graph alone and the network is another, and InputError.
    """
    told = bundle.manifest.get("loss")
    spec, name = (told.get("spec"), told.get("name")) if isinstance(told, dict) else ("", "")
    if spec in BUILT_IN_LOSSES:
        return str(spec), None
    if spec is not None or not isinstance(name, str):
        raise InputError(f"The manifest of {quoted(bundle.directory)} names no loss.", DAMAGED)
    found = bundle_of(network)
    if found is None:
        raise MismatchError(
            f"The loss of the bundle is {name[:100]}, a function that is not in it.",
            "Give --loss file.py:function as well.",
        )
    return "auto", FunctionLoss(f"{name[:100]} (in the bundle)", found[1].loss_of)
