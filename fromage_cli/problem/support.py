"""What cannot be measured, refused by name before anything is computed."""

from torch import nn

from fromage_cli.errors import InputError

_ADAPTERS = ("lora_", "ia3_", "vera_", "adapter_", "prompt_encoder")
"""Beginnings of the names that adapter libraries give to their tensors."""
_QUANTISED = ("torch.ao.nn", "torch.nn.quantized", "bitsandbytes", "auto_gptq", "gptqmodel", "awq", "hqq", "quanto")
"""Packages whose modules hold quantised weights."""


def refuse_unsupported(model: nn.Module) -> None:
    """Raises InputError for quantised and complex weights and for adapters, naming the first ones."""
    quantised = [name for name, module in model.named_modules() if type(module).__module__.startswith(_QUANTISED)]
    quantised += [
        n for n, value in model.named_parameters() if not value.is_floating_point() and not value.is_complex()
    ]
    if quantised:
        raise InputError(
            f"The model holds {len(quantised)} quantised tensors or modules, first {_some(quantised)}: they have no "
            "gradient to measure.",
            "Measure the checkpoint that they were made from, or dequantise the model in the factory.",
            quantised,
        )
    complex_ = [name for name, value in model.named_parameters() if value.is_complex()]
    if complex_:
        raise InputError(
            f"The model holds {len(complex_)} complex tensors, first {_some(complex_)}: relative steps are measured of "
            "real ones only.",
            "Store them as real and imaginary parts (torch.view_as_real) in the factory.",
            complex_,
        )
    adapters = [name for name, _ in model.named_parameters() if _is_adapter(name)]
    if adapters:
        raise InputError(
            f"The model holds {len(adapters)} adapter tensors, first {_some(adapters)}: adapters are not supported.",
            "Merge them into the weights in the factory (merge_and_unload() in peft), then measure.",
            adapters,
        )


def _is_adapter(name: str) -> bool:
    return any(part.lower().startswith(_ADAPTERS) for part in name.split("."))


def _some(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:3])
