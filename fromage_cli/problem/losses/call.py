"""How a batch reaches a model's `forward`: which tensors are inputs, which one is the target, and by what name."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fromage_cli.errors import FromageError, MismatchError
from fromage_cli.problem.conditions.independent_copy import independent_copy
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.data.pytrees import describe_shapes, map_tensors, named_tensors
from fromage_cli.problem.graphs.network import class_name
from fromage_cli.problem.networks.layers import unwrapped
from fromage_cli.problem.user_code.named_code import first_line, hint_for, named_code, out_of_memory

INPUT_NAMES = ("x", "input", "inputs")
TARGET_NAMES = ("y", "target", "targets")
LABEL_NAMES = ("label", "labels")

_ONE_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_POSITION = (*_ONE_BY_POSITION, inspect.Parameter.VAR_POSITIONAL)
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

Arguments = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Positional arguments, named arguments, target (None when the batch has none)."""


def call_model(model: nn.Module, batch: Batch) -> Any:
    """The model's output on the batch.

    Raises MismatchError when the batch does not match the arguments of `forward`, or `forward` fails on it.
    """
    positional, named, _ = inputs_and_targets(model, batch)
    return forward(model, batch, positional, named)


def forward(model: nn.Module, batch: Batch, positional: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """Call the model with arguments that are already bound, and explain its failure with the batch's shapes."""
    try:
        with named_code("running the model", passing=(Exception,)):
            given, given_named = map_tensors((positional, named), independent_copy)
            return model(*given, **given_named)
    except FromageError:
        raise
    except Exception as error:
        if out_of_memory(error):
            with named_code("running the model"):
                raise
        hint = (
            "Check that the batch has the shapes and types that the model was trained on. --debug shows the traceback."
        )
        raise MismatchError(
            f"The model failed on the batch: {type(error).__name__}: {first_line(error)}\n"
            f"batch: {describe_shapes(batch.data)}\nmodel: {signature_text(model)}",
            hint_for(error, hint),
        ) from error


def signature_text(model: nn.Module) -> str:
    """`Name.forward(x, mask=None)`, for messages."""
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in _parameters(model)]
    return f"{class_name(unwrapped(model))}.forward{inspect.Signature(plain)}"


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    """The arguments of `forward`."""
    forward = unwrapped(model).forward
    if hasattr(forward, "schema"):  # of a scripted module
        return [
            inspect.Parameter(
                argument.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=argument.default_value if argument.has_default_value() else inspect.Parameter.empty,
            )
            for argument in forward.schema.arguments[1:]
        ]
    try:
        return list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):  # a function of an extension does not show its arguments
        return [inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)]


def inputs_and_targets(model: nn.Module, batch: Batch) -> Arguments:
    """Bind a batch to the arguments of `forward`.

    A dict goes by name; `x`, `input` or `inputs` stands for the first argument, `y`, `target` or `targets` and `label`
    or `labels` for the target. The target is passed on only to an argument that is called so. The first three and the
    last two are kept apart, since a language model shifts `labels` itself, but not `targets`; an argument that must be
    given takes either. In a tuple the last element is the target when `forward` can do without it. The batch remembers
    what was bound.

    Raises MismatchError with the batch's names and the signature.
    """
    if model in batch.bound:
        return batch.bound[model]
    parameters = _parameters(model)
    if isinstance(batch.data, Mapping):
        bound = _bind_names(batch.data, parameters)
    elif isinstance(batch.data, list | tuple):
        bound = _bind_sequence(batch.data, parameters)
    else:
        bound = (batch.data,), {}, None
    try:
        if bound is None:
            raise TypeError
        inspect.Signature(parameters).bind(*bound[0], **bound[1])
    except TypeError:
        raise MismatchError(
            f"The batch does not match the model's arguments.\n"
            f"batch: {describe_shapes(batch.data)}\nmodel: {signature_text(model)}",
            "Name the tensors as the arguments, or x and y. Or give --loss file.py:function, which calls the model.",
        ) from None
    batch.bound[model] = bound
    return bound


def _bind_names(data: Mapping[str, Any], parameters: Sequence[inspect.Parameter]) -> Arguments | None:
    """Bind a dict by name; None when a tensor finds no argument."""
    names = {parameter.name for parameter in parameters if parameter.kind in _BY_NAME}
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    named = {key: value for key, value in data.items() if key in names}
    target_key = next((key for key in data if key in TARGET_NAMES + LABEL_NAMES), None)
    rest = {key: value for key, value in data.items() if key not in named and key != target_key}
    if target_key is not None and target_key not in named:
        parameter = _target_parameter(target_key, parameters, named)
        if parameter is not None:
            named[parameter] = data[target_key]
    first = next((parameter for parameter in parameters if parameter.kind in _BY_POSITION), None)
    positional: tuple[Any, ...] = ()
    for key in [key for key in rest if key in INPUT_NAMES]:
        if first is not None and first.name not in named and not positional:
            positional, named_inside = _spread(rest.pop(key), names - named.keys())
            named = named | named_inside
    if takes_any:
        named |= rest
    elif list(named_tensors(rest)):
        return None
    return positional, named, None if target_key is None else data[target_key]


def _spread(value: Any, names: set[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """One input: as named arguments when it is a dict of those, else as the first argument."""
    if isinstance(value, Mapping) and value and set(value) <= names:
        return (), dict(value)
    return (value,), {}


def _target_parameter(key: str, parameters: Sequence[inspect.Parameter], named: Mapping[str, Any]) -> str | None:
    """The argument that takes the target under another of its names."""
    same_kind = TARGET_NAMES if key in TARGET_NAMES else LABEL_NAMES
    for parameter in parameters:
        required = parameter.default is inspect.Parameter.empty and parameter.kind not in _VARIABLE
        free = parameter.name not in named
        if free and (parameter.name in same_kind or (required and parameter.name in TARGET_NAMES + LABEL_NAMES)):
            return parameter.name
    return None


def _bind_sequence(data: Sequence[Any], parameters: Sequence[inspect.Parameter]) -> Arguments:
    """Bind a tuple by position; its last element is the target when `forward` does not require it."""
    names = {parameter.name for parameter in parameters if parameter.kind in _BY_NAME}
    positions = [parameter for parameter in parameters if parameter.kind in _ONE_BY_POSITION]
    required = sum(parameter.default is inspect.Parameter.empty for parameter in positions)
    count = len(data)
    if count == 1:
        return *_spread(data[0], names), None
    if count <= len(positions) and positions[count - 1].name in TARGET_NAMES + LABEL_NAMES:
        return tuple(data), {}, data[-1]
    if isinstance(data[0], Mapping) and count == 2:
        return *_spread(data[0], names), data[-1]
    if required >= count:
        return tuple(data), {}, None
    return tuple(data[:-1]), {}, data[-1]
