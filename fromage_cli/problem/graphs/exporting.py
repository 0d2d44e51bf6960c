"""A network or a loss as a graph in JSON's own types, by torch.export."""

import contextlib
import io
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from fromage_cli.errors import FromageError, MismatchError, words_of
from fromage_cli.problem.graphs.graph import DTYPES
from fromage_cli.problem.graphs.operators import is_allowed

DROPPED = ("_assert", "sym_constrain_range", "_check")
"""How operators begin that compute nothing: they look at sizes and types while a graph is made."""
SIZE = "aten.sym_size.int"
ROOT = "network"
"""What the network is called inside the module that is exported."""


@dataclass(frozen=True)
class Exported:
    """A graph and what it needs beside the network's own tensors."""

    graph: dict[str, Any]
    constants: dict[str, Tensor] = field(default_factory=dict)
    fixed: str = ""
    """Why it holds for this number of rows alone; empty where it holds for any."""


class NotExportable(MismatchError):
    """Says why a network or a loss does not become a graph."""


def export(network: nn.Module, call: Callable[..., Any], tensors: Sequence[Tensor], arguments: Any = None) -> Exported:
    """The graph of `call(network, *tensors)`, whose tensors share their first dimension, in the network's present mode.

    The result of `call` is any nesting of tensors, numbers and texts in dicts, lists and tuples; anything else in it is
    left out. `arguments`: how the network is called with them, as its arguments and its named ones, with
    `{"place": n}` for each tensor; None where `call` is more than that call. The graph holds for any number of rows where the code allows it. Raises NotExportable.
    """
    rows = [torch.cat([tensor, tensor]) if len(tensor) == 1 else tensor.clone() for tensor in tensors]
    fixed = ""
    with _Calls(network) as calls:
        whole = _Whole(network, call, calls)
        try:
            program = _program(whole, rows, torch.export.Dim("batch", min=1))
        except FromageError:
            raise
        except Exception as first:  # torch has many classes for what it cannot export
            if len(tensors[0]) == 1:
                rows = [tensor.clone() for tensor in tensors]
            fixed = _reason(first)
            try:
                program = _program(whole, rows, None)
            except FromageError:
                raise
            except Exception as error:
                raise NotExportable(
                    f"torch.export cannot make a graph of the network and its loss: {_reason(error)}",
                    "A step that depends on the values of tensors, as `if loss > 1`, is a frequent cause.",
                ) from error
    writer = _Writer(program, network, calls.last)
    return Exported(writer.graph(calls.result, arguments), writer.constants, fixed)


def _reason(error: Exception) -> str:
    """The first line of an exception that says something."""
    lines = [line.strip() for line in words_of(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def _program(whole: nn.Module, rows: Sequence[Tensor], batch: Any) -> Any:
    """The exported program; what torch prints on the way is not shown."""
    shapes = None if batch is None else (tuple({0: batch} if tensor.dim() else None for tensor in rows),)
    names = tuple(
        name
        for name, module in whole.named_modules()
        if name and type(module).forward is not nn.Module.forward and not isinstance(module, torch.jit.ScriptModule)
    )
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()), _quiet():
        try:
            return torch.export.export(
                whole, tuple(rows), dynamic_shapes=shapes, strict=False, preserve_module_call_signature=names
            )
        except Exception:  # arguments that are no tensors and no plain values, such as a cache of keys
            return torch.export.export(whole, tuple(rows), dynamic_shapes=shapes, strict=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's own log lines are not printed."""
    import logging

    logger = logging.getLogger("torch")
    before, logger.disabled = logger.level, False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Whole(nn.Module):
    """A function of a network and tensors as a module, which returns a flat tuple of tensors."""

    def __init__(self, network: nn.Module, call: Callable[..., Any], calls: "_Calls") -> None:
        super().__init__()
        self.network = network
        self._call, self._calls = call, calls

    def forward(self, *tensors: Tensor) -> tuple[Any, ...]:
        """The tensors in what the function returns; how they are arranged is noted beside the calls."""
        found: list[Any] = []
        self._calls.begin()
        self._calls.result = _arranged(self._call(self.network, *tensors), found)
        return tuple(found)


def _arranged(value: Any, found: list[Any]) -> Any:
    """How values are arranged, in JSON's own types, with the place of each tensor in `found`; the rest is left out."""
    if isinstance(value, Tensor | torch.SymInt | torch.SymFloat):
        found.append(value)
        return {"place": len(found) - 1}
    if isinstance(value, Mapping):
        return {"dict": {str(key): _arranged(item, found) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_arranged(item, found) for item in value]}
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return {"dict": {name: _arranged(getattr(value, name), found) for name in value.__dataclass_fields__}}
    if value is None or isinstance(value, bool | int | float | str):
        return _encoded(value)
    return None


def _encoded(value: Any) -> Any:
    """A plain value in JSON's own types."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    return value


class _Calls:
    """Notes the calls of modules within the block, as a tree: one tree for each call of the network's root."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.last: list[_Call] = []
        """The calls of the root in the last complete pass."""
        self.result: Any = None
        """How what the whole returned is arranged; kept here because torch.export sets a module's attributes back."""
        self._running: list[_Call] = []
        self._counts: Counter[str] = Counter()
        self._block = contextlib.ExitStack()

    def __enter__(self) -> "_Calls":
        for name, module in self.network.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                self._block.callback(module.register_forward_pre_hook(partial(self._enters, name), prepend=True).remove)
                self._block.callback(module.register_forward_hook(partial(self._leaves, name), always_call=True).remove)
        return self

    def __exit__(self, *raised: object) -> None:
        self._block.close()

    def begin(self) -> None:
        """A new pass begins."""
        self.last, self._running = [], []
        self._counts.clear()

    def _enters(self, name: str, *_: Any) -> None:
        call = _Call(name, self._counts[name])
        self._counts[name] += 1
        (self._running[-1].inner if self._running else self.last).append(call)
        self._running.append(call)

    def _leaves(self, name: str, *_: Any) -> None:
        while self._running and self._running.pop().name != name:
            continue


@dataclass
class _Call:
    """One call of a module."""

    name: str
    number: int
    inner: list["_Call"] = field(default_factory=list)

    @property
    def path(self) -> str:
        """What torch.export calls it, in the module that was exported."""
        name = f"{ROOT}.{self.name}" if self.name else ROOT
        return f"{name}@{self.number}" if self.number else name


@dataclass
class _Item:
    """A step before it is put into the module that it belongs to."""

    stack: list[str]
    """The paths of the module calls around it, the innermost last."""
    first: int
    """Its place among all steps."""
    last: int
    """The place of the last step inside it."""
    uses: list[str]
    defines: list[str]
    step: dict[str, Any]
    inner: "list[_Item] | None" = None
    """What is inside a condition."""


class _Writer:
    """Writes one exported program."""

    def __init__(self, program: Any, network: nn.Module, calls: list[_Call]) -> None:
        self.program, self.network, self.calls = program, network, calls
        self.constants: dict[str, Tensor] = {}
        self.signatures = {entry.fqn: entry.signature for entry in program.module_call_graph if entry.signature}
        self.inputs: list[str] = []
        self.place = 0
        self.last_use: dict[str, int] = {}
        self.first_place: dict[str, int] = {}

    def graph(self, result: Any, arguments: Any) -> dict[str, Any]:
        """The graph in JSON's own types; `result`: how its outputs are arranged, `arguments` those of the network."""
        known: dict[str, Any] = {}
        inputs = self.inputs
        for node, spec in zip(
            [node for node in self.program.graph.nodes if node.op == "placeholder"],
            self.program.graph_signature.input_specs,
            strict=True,
        ):
            kind = spec.kind.name
            if kind == "USER_INPUT":
                inputs.append(node.name)
                known[node.name] = {"value": node.name}
                self.first_place[node.name] = -1
            elif kind in ("PARAMETER", "BUFFER"):
                known[node.name] = {kind.lower(): str(spec.target).removeprefix(f"{ROOT}.")}
            elif kind == "CONSTANT_TENSOR":
                known[node.name] = self.constant(str(spec.target))
            else:
                raise NotExportable(f"The graph holds an object that is no tensor ({kind.lower()}).", "")
        items, outputs = self.items(self.program.graph_module, known, "")
        for name in _names_in(outputs):
            self.last_use[name] = self.place + 1
        cursor = _Cursor(self.calls)
        steps = self.body(items, 0, cursor)
        steps += [step for each in cursor.left for step in self.without_steps(each)]
        body = {
            "arguments": [{"value": name} for name in inputs],
            "steps": steps,
            "result": _placed(result, outputs),
        }
        whole = [step for step in steps if step.get("module") == ""]
        if arguments is not None and len(whole) == 1:
            given = [{"value": name} for name in inputs]
            positional, named = arguments
            whole[0] |= {
                "arguments": [_placed(each, given) for each in positional],
                "named": {key: _placed(each, given) for key, each in named.items()},
                "result": body["result"],
            }
        return {"inputs": inputs, "body": body}

    def constant(self, name: str) -> dict[str, Any]:
        """A tensor that the code held outside of the network's own; one that is a parameter is called so."""
        value = self.program.constants.get(name)
        if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter):
            raise NotExportable(f"The graph holds the constant {name}, which is no plain tensor.", "")
        for own, parameter in self.network.named_parameters():
            if _same_place(parameter, value):
                return {"parameter": own}
        self.constants[name] = value.detach()
        return {"constant": name}

    def items(self, module: fx.GraphModule, known: dict[str, Any], prefix: str) -> tuple[list[_Item], list[Any]]:
        """The steps of one graph in their order, and its outputs; `known`: what stands for each node."""
        found: list[_Item] = []
        outputs: list[Any] = []
        for node in module.graph.nodes:
            if node.op == "placeholder":
                continue
            if node.op == "output":
                outputs = [self.encoded(value, known) for value in node.args[0]]
                continue
            if node.op == "get_attr":
                held = getattr(module, node.target)
                known[node.name] = held if isinstance(held, fx.GraphModule) else self.constant(node.target)
                continue
            name = str(getattr(node.target, "__name__", node.target))
            if isinstance(node.target, torch._ops.HigherOrderOperator):
                if name == "_export_tracepoint":
                    known[node.name] = [self.encoded(value, known) for value in node.args]
                else:
                    found.append(self.condition(node, name, known, prefix))
                continue
            operator_name = _operator_name(node.target)
            source = node.args[0] if node.args else None
            if operator_name == "operator.getitem" and isinstance(known.get(getattr(source, "name", "")), list):
                known[node.name] = known[source.name][node.args[1]]
                continue
            if operator_name == SIZE and source is not None and source.name in self.inputs and node.args[1] == 0:
                known[node.name] = {"rows": "all"}
                continue
            if any(part.startswith(DROPPED) for part in operator_name.split(".")):
                continue
            if not is_allowed(operator_name):
                raise NotExportable(
                    f"The network or the loss calls {operator_name}, which is not in the list of operators of a bundle.",
                    "",
                )
            arguments = [self.encoded(value, known) for value in node.args]
            named = {key: self.encoded(value, known) for key, value in node.kwargs.items()}
            name = f"{prefix}{node.name}"
            known[node.name] = {"value": name}
            found.append(self.item(_stack(node), [*_names_in((arguments, named))], [name], {
                "name": name, "operator": operator_name, "arguments": arguments, "named": named,
            }))  # fmt: skip
        return found, outputs

    def item(
        self,
        stack: list[str],
        uses: list[str],
        defines: list[str],
        step: dict[str, Any],
        inner: list[_Item] | None = None,
        first: int | None = None,
    ) -> _Item:
        """Count one step."""
        self.place += 1
        for name in uses:
            self.last_use[name] = self.place
        for name in defines:
            self.first_place.setdefault(name, self.place)
        return _Item(stack, self.place if first is None else first, self.place, uses, defines, step, inner)

    def condition(self, node: Any, name: str, known: dict[str, Any], prefix: str) -> _Item:
        """Steps without gradients, or in a precision of their own."""
        if name == "wrap_with_set_grad_enabled":
            enabled, inner, *given = node.args
            described: dict[str, Any] = {"grad": bool(enabled)}
        elif name == "wrap_with_autocast":
            _, dtype, enabled, _, inner, *given = node.args
            dtype = dtype or torch.bfloat16
            described = {"autocast": str(dtype).removeprefix("torch.") if enabled else None}
        else:
            raise NotExportable(f"The graph has a step that is not supported ({name}).", "")
        module, first = known[inner.name], self.place + 1
        places = [each for each in module.graph.nodes if each.op == "placeholder"]
        inside = {
            each.name: known[value.name] if isinstance(value, fx.Node) else self.encoded(value, known)
            for each, value in zip(places, given, strict=True)
        }
        items, outputs = self.items(module, inside, f"{prefix}{node.name}.")
        known[node.name] = outputs
        stacks = [item.stack for item in items] or [_stack(node)]
        shared = [each[0] for each in zip(*stacks, strict=False) if len(set(each)) == 1]
        defined = [each for item in items for each in item.defines]
        uses = [*_names_in(outputs), *(each for item in items for each in item.uses)]
        return self.item(
            shared,
            [each for each in dict.fromkeys(uses) if each not in defined],
            defined,
            {"condition": described, "result": outputs},
            items,
            first,
        )

    def body(self, items: list[_Item], depth: int, cursor: "_Cursor") -> list[dict[str, Any]]:
        """The steps of one block; those of a module call inside it in a block of their own."""
        steps: list[dict[str, Any]] = []
        start = 0
        _join(items, depth, cursor)
        while start < len(items):
            item = items[start]
            key = item.stack[depth] if len(item.stack) > depth else None
            end = start + 1
            if key is None:
                if item.inner is not None:
                    inner = self.body(item.inner, depth, cursor)
                    escaping = [name for name in item.defines if self.last_use.get(name, 0) > item.last]
                    result = [{"value": name} for name in escaping]
                    steps.append({"condition": item.step["condition"], "arguments": [], "named": {}, "steps": inner,
                                  "result": result})  # fmt: skip
                else:
                    steps.append(item.step)
            else:
                while end < len(items) and items[end].stack[depth : depth + 1] == [key]:
                    end += 1
                passed, call = cursor.up_to(key)
                for each in passed:
                    steps += self.without_steps(each)
                within = _Cursor(call.inner if call is not None else [])
                inner = self.body(items[start:end], depth + 1, within)
                inner += [step for each in within.left for step in self.without_steps(each)]
                steps += self.module_call(key, inner, items[start:end])
            start = end
        return steps

    def module_call(self, key: str, steps: list[dict[str, Any]], items: list[_Item]) -> list[dict[str, Any]]:
        """The call of a module as one block; its steps alone where it cannot be one."""
        first, last = items[0].first, items[-1].last
        defined = [name for item in items for name in item.defines]
        inside = set(defined)
        used = dict.fromkeys(name for item in items for name in item.uses if name not in inside)
        escaping = [name for name in defined if self.last_use.get(name, 0) > last]
        arguments, named, result = self.signature(key, first)
        returned = set(_names_in(result))
        known = inside | {name for name in returned if self.first_place.get(name, first) < first}
        if arguments is None or not set(escaping) <= returned or not returned <= known:
            arguments, named = [{"value": name} for name in used], {}
            values = [{"value": name} for name in escaping]
            result = values[0] if len(values) == 1 else {"tuple": values}
        block = {"module": _own_name(key), "arguments": arguments, "named": named, "steps": steps, "result": result}
        return [block]

    def without_steps(self, call: _Call) -> list[dict[str, Any]]:
        """The call of a module that computes nothing, as nn.Identity: it counts where modules draw random numbers."""
        arguments, named, result = self.signature(call.path, self.place + 1)
        if arguments is None or not {*_names_in(result)} <= {*_names_in((arguments, named))}:
            return []
        inner = [step for each in call.inner for step in self.without_steps(each)]
        return [{"module": call.name, "arguments": arguments, "named": named, "steps": inner, "result": result}]

    def signature(self, path: str, before: int) -> tuple[list[Any] | None, dict[str, Any], Any]:
        """What a module was called with and what it returned; None first where that is not known.

        `before`: the place from which on values are not known yet.
        """
        signature = self.signatures.get(path)
        if signature is None:
            return None, {}, None
        try:
            arguments, named = _pytree.tree_unflatten([_argument(each) for each in signature.inputs], signature.in_spec)
            result = _pytree.tree_unflatten([_argument(each) for each in signature.outputs], signature.out_spec)
            described = [_template(each) for each in arguments], {key: _template(each) for key, each in named.items()}
            names = [*_names_in(described)]
            if all(self.first_place.get(name, before) < before for name in names):
                return *described, _template(result)
        except (TypeError, ValueError, AttributeError, KeyError):
            pass
        return None, {}, None

    def encoded(self, value: Any, known: Mapping[str, Any]) -> Any:
        """An argument in JSON's own types."""
        if isinstance(value, fx.Node):
            return known[value.name]
        if isinstance(value, slice):
            return {"slice": [self.encoded(end, known) for end in (value.start, value.stop, value.step)]}
        if isinstance(value, list | tuple):
            return [self.encoded(item, known) for item in value]
        if isinstance(value, torch.dtype) and str(value).removeprefix("torch.") in DTYPES:
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"device": "weights"}
        if isinstance(value, torch.layout | torch.memory_format):
            kind = "layout" if isinstance(value, torch.layout) else "memory_format"
            return {kind: str(value).removeprefix("torch.")}
        if isinstance(value, complex):
            return {"complex": [_encoded(value.real), _encoded(value.imag)]}
        if value is None or isinstance(value, bool | int | float | str):
            return _encoded(value)
        raise NotExportable(f"A step of the graph has an argument of type {type(value).__name__}.", "")


class _Cursor:
    """The calls inside a block that were not written yet, in their order."""

    def __init__(self, calls: Sequence[_Call]) -> None:
        self.left = list(calls)

    def up_to(self, path: str) -> tuple[list[_Call], _Call | None]:
        """The calls before that of this path, and that one; none where it is not among them."""
        for place, call in enumerate(self.left):
            if call.path == path:
                passed, self.left = self.left[:place], self.left[place + 1 :]
                return passed, call
        return [], None


def _join(items: list[_Item], depth: int, cursor: _Cursor) -> None:
    """Takes the steps of a call that do not follow each other out of it: it cannot be made as one."""
    keys = [item.stack[depth] if len(item.stack) > depth else None for item in items]
    runs = Counter(key for place, key in enumerate(keys) if place == 0 or keys[place - 1] != key)
    scattered = {key for key, count in runs.items() if key is not None and count > 1}
    if not scattered:
        return
    for item in items:
        if item.stack[depth : depth + 1] and item.stack[depth] in scattered:
            del item.stack[depth]
    cursor.left = [each for call in cursor.left for each in (call.inner if call.path in scattered else [call])]
    _join(items, depth, cursor)


def _own_name(path: str) -> str:
    """A module's name in the network, from what torch.export calls its call."""
    return path.partition("@")[0].removeprefix(ROOT).removeprefix(".")


def _stack(node: Any) -> list[str]:
    """The calls of modules that a node belongs to, the outermost first."""
    found = []
    for key, (name, _) in (node.meta.get("nn_module_stack") or {}).items():
        if name == ROOT or name.startswith(f"{ROOT}."):
            number = key.rpartition("@")[2] if "@" in key else ""
            found.append(f"{name}@{number}" if number else name)
    return found


def _operator_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    module = getattr(target, "__module__", "") or ""
    name = getattr(target, "__name__", str(target))
    return f"{'operator' if module == operator.add.__module__ else module}.{name}"


def _names_in(template: Any) -> Iterator[str]:
    """The names of values in what was encoded."""
    if isinstance(template, Mapping):
        if set(template) == {"value"}:
            yield template["value"]
            return
        template = list(template.values())
    if isinstance(template, list | tuple):
        for item in template:
            yield from _names_in(item)


def _placed(result: Any, outputs: Sequence[Any]) -> Any:
    """How a result is arranged, with the outputs in their places."""
    if isinstance(result, Mapping):
        (kind, value), *_ = result.items()
        if kind == "place":
            return outputs[value]
        if kind == "dict":
            return {"dict": {key: _placed(item, outputs) for key, item in value.items()}}
        if kind in ("tuple", "list"):
            items = [_placed(item, outputs) for item in value]
            return {"tuple": items} if kind == "tuple" else items
    return result


def _argument(argument: Any) -> Any:
    """A value of a signature: a name, or a constant."""
    kind = type(argument).__name__
    if kind == "ConstantArgument":
        return _encoded(argument.value) if _is_plain(argument.value) else None
    if kind in ("TensorArgument", "SymIntArgument", "SymFloatArgument", "SymBoolArgument"):
        return {"value": argument.name}
    raise TypeError(kind)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _template(value: Any) -> Any:
    """Nested values as a template; raises TypeError for what is no dict, list or tuple."""
    if isinstance(value, Mapping):
        if set(value) in ({"value"}, {"number"}) and isinstance(next(iter(value.values())), str):
            return dict(value)
        return {"dict": {str(key): _template(item) for key, item in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [_template(item) for item in value]}
    if isinstance(value, list):
        return [_template(item) for item in value]
    if _is_plain(value):
        return value
    if hasattr(value, "__dataclass_fields__"):
        return {"dict": {name: _template(getattr(value, name)) for name in value.__dataclass_fields__}}
    raise TypeError(type(value).__name__)


def _same_place(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are the same memory seen alike."""
    return (
        type(second) in (Tensor, nn.Parameter)
        and not first.is_meta
        and not second.is_meta
        and first.data_ptr() == second.data_ptr()
        and first.shape == second.shape
        and first.stride() == second.stride()
        and first.numel() > 0
    )
