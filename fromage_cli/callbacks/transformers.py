"""A callback of transformers that writes bundles: `Trainer(…, callbacks=[BundleCallback("bundles", 1000)])`."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fromage_cli import bundle
from fromage_cli.callbacks.asking import ask_about
from fromage_cli.errors import InputError, UsageError

if find_spec("transformers") is None:
    raise InputError("The callback needs the extra: hf.", "Install it: python -m pip install 'fromage-diag[hf]'")

from transformers import TrainerCallback

_COUNT = "num_items_in_batch"
"""What the trainer tells the model of all ranks and accumulated batches: no row of the batch."""


class BundleCallback(TrainerCallback):
    """Writes `directory/step-000100` and so on: the weights after a step, with the last batch that made it.

    `loss`: as `fromage_cli.bundle.save` takes it; by default the model's own. `batch`: a function that takes of the
    model's inputs, by name, what is to be kept; without it all are. `module`: the plain network on the meta device,
    under FSDP2. `ask`: a question that is asked about each new bundle, as `fromage_cli.api.check`; its page goes to
    standard error.
    """

    def __init__(
        self,
        directory: str | Path,
        every_n_steps: int,
        loss: str | Callable[..., Any] = "auto",
        batch: Callable[[dict[str, Any]], Any] | None = None,
        *,
        module: Any = None,
        ask: Callable[[Path], object] | None = None,
    ) -> None:
        if every_n_steps < 1:
            raise UsageError(f"every_n_steps is {every_n_steps}; expected 1 or more.", "Give 1000, for example.")
        self.directory, self.every_n_steps, self.loss, self.batch = Path(directory), every_n_steps, loss, batch
        self.module, self.ask = module, ask
        self._inputs: dict[str, Any] = {}
        self._hook: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Listen to the model's inputs where the step that begins is to be saved."""
        if self._hook is None and (state.global_step + 1) % self.every_n_steps == 0:
            self._hook = others["model"].register_forward_pre_hook(self.listen, with_kwargs=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Save where the step that was made is to be saved."""
        if self._hook is None:
            return
        self._hook.remove()
        rows = self._inputs if self.batch is None else self.batch(self._inputs)
        place = self.directory / f"step-{state.global_step:06d}"
        model, optimizer, step = others["model"], others["optimizer"], state.global_step
        ask_about(bundle.save(place, model, rows, self.loss, optimizer, step, module=self.module), self.ask)
        self._hook, self._inputs = None, {}

    def listen(self, model: Any, given: Any, named: dict[str, Any]) -> None:
        """Keep what the model is called with."""
        self._inputs = {name: value for name, value in named.items() if name != _COUNT}
