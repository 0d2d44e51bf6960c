"""A callback of Lightning that writes bundles: `Trainer(callbacks=[BundleCallback("bundles", 1000, loss=…)])`."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fromage_cli import bundle
from fromage_cli.callbacks.asking import ask_about
from fromage_cli.errors import InputError, UsageError

_LIBRARY = next((name for name in ("lightning", "pytorch_lightning") if find_spec(name) is not None), None)
if _LIBRARY is None:
    raise InputError(
        "The callback needs the extra: lightning.", "Install it: python -m pip install 'fromage-diag[lightning]'"
    )
_Callback: Any = import_module(f"{_LIBRARY}.pytorch" if _LIBRARY == "lightning" else _LIBRARY).Callback


class BundleCallback(_Callback):  # type: ignore[misc]
    """Writes `directory/step-000100` and so on: the weights after a step, with the last batch that made it.

    `loss`: as `fromage_cli.bundle.save` takes it, since a training step computes its loss out of sight. `batch`: a
    function that takes of a training batch what the network and the loss need; without it they get all. `module`: the
    plain network on the meta device, under FSDP2. `ask`: a question that is asked about each new bundle, as
    `fromage_cli.api.check`; its page goes to standard error.
    """

    def __init__(
        self,
        directory: str | Path,
        every_n_steps: int,
        loss: str | Callable[..., Any] = "auto",
        batch: Callable[[Any], Any] | None = None,
        *,
        module: Any = None,
        ask: Callable[[Path], object] | None = None,
    ) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise UsageError(f"every_n_steps is {every_n_steps}; expected 1 or more.", "Give 1000, for example.")
        self.directory, self.every_n_steps, self.loss, self.batch = Path(directory), every_n_steps, loss, batch
        self.module, self.ask = module, ask
        self._last = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save where the optimizer has just made such a step."""
        step = trainer.global_step
        if step == self._last or step % self.every_n_steps:  # gradients may still be accumulating
            return
        self._last = step
        rows = batch if self.batch is None else self.batch(batch)
        place = self.directory / f"step-{step:06d}"
        written = bundle.save(place, pl_module, rows, self.loss, trainer.optimizers, step, module=self.module)
        ask_about(written, self.ask)
