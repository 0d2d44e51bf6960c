"""From what torch.export made to a graph in JSON's own types, in which the calls of modules are blocks."""

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from fromage_cli.problem.graphs.encoding import NotExportable, argument_of, encoded, names_in, placed, template_of
from fromage_cli.problem.graphs.module_calls import ROOT, Call, Cursor, own_name
from fromage_cli.problem.graphs.network import place_of
from fromage_cli.problem.graphs.operators import is_allowed

DROPPED = ("_assert", "sym_constrain_range", "_check")
"""How operators begin that compute nothing: they look at sizes and types while a graph is made."""
SIZE = "aten.sym_size.int"
"""The operator that gives one size of a tensor."""


@dataclass
class Step:
    """A step before it is put into the module that it belongs to."""

    stack: list[str]
    """The paths of the module calls around it, the innermost last."""
    step: dict[str, Any]
    """In JSON's own types."""
    uses: list[str]
    defines: list[str]
    inner: "list[Step] | None" = None
    """What is inside a condition."""
    first: int = 0
    """Its place among all steps; of a condition that of the first step inside it."""
    last: int = 0
    """The place of the last step inside it."""


class GraphWriter:
    """Writes one exported program."""

    def __init__(self, program: Any, network: nn.Module, calls: list[Call], others: Mapping[str, Tensor]) -> None:
        self.program, self.network, self.calls, self.others = program, network, calls, others
        self.constants: dict[str, Tensor] = {}
        """What the code held outside of the network; `others` are those of other graphs, which keep their names."""
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
        for name in names_in(outputs):
            self.last_use[name] = self.place + 1
        cursor = Cursor(self.calls)
        steps = self.body(items, 0, cursor)
        steps += [step for each in cursor.left for step in self.without_steps(each)]
        body = {
            "arguments": [{"value": name} for name in inputs],
            "steps": steps,
            "result": placed(result, outputs),
        }
        whole = [step for step in steps if step.get("module") == ""]
        if arguments is not None and len(whole) == 1:
            given = [{"value": name} for name in inputs]
            positional, named = arguments
            whole[0] |= {
                "arguments": [placed(each, given) for each in positional],
                "named": {key: placed(each, given) for key, each in named.items()},
                "result": body["result"],
            }
        return {"inputs": inputs, "body": body}

    def constant(self, name: str) -> dict[str, Any]:
        """A tensor that the code held outside of the network's own; one that is a parameter is called so."""
        value = self.program.constants.get(name)
        if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter):
            raise NotExportable(f"The graph holds the constant {name}, which is no plain tensor.", "")
        for own, parameter in self.network.named_parameters():
            if place_of(parameter) == place_of(value):
                return {"parameter": own}
        shared = (known for known, other in self.others.items() if place_of(other) == place_of(value))
        own = next(shared, f"{len(self.others)}.{name}")
        if own not in self.others:
            self.constants[own] = value.detach()
        return {"constant": own}

    def items(self, module: fx.GraphModule, known: dict[str, Any], prefix: str) -> tuple[list[Step], list[Any]]:
        """The steps of one graph in their order, and its outputs; `known`: what stands for each node."""
        found: list[Step] = []
        outputs: list[Any] = []
        for node in module.graph.nodes:
            if node.op == "placeholder":
                continue
            if node.op == "output":
                outputs = [encoded(value, known) for value in node.args[0]]
                continue
            if node.op == "get_attr":
                held = getattr(module, node.target)
                known[node.name] = held if isinstance(held, fx.GraphModule) else self.constant(node.target)
                continue
            name = str(getattr(node.target, "__name__", node.target))
            if isinstance(node.target, torch._ops.HigherOrderOperator):
                if name == "_export_tracepoint":
                    known[node.name] = [encoded(value, known) for value in node.args]
                else:
                    found.append(self.condition(node, name, known, prefix))
                continue
            operator_name = _operator_name(node.target)
            source = next((value for value in node.args[:1] if isinstance(value, fx.Node)), None)
            if operator_name == "operator.getitem" and source is not None and isinstance(known.get(source.name), list):
                known[node.name] = known[source.name][node.args[1]]
                continue
            if operator_name == SIZE and source is not None and source.name in self.inputs and node.args[1] == 0:
                known[node.name] = {"rows": "all"}
                continue
            if any(part.startswith(DROPPED) for part in operator_name.split(".")):
                continue
            if not is_allowed(operator_name):
                raise NotExportable(
                    f"The network or the loss calls {operator_name}, which a bundle has no operator for.", ""
                )
            arguments = [encoded(value, known) for value in node.args]
            named = {key: encoded(value, known) for key, value in node.kwargs.items()}
            name = f"{prefix}{node.name}"
            known[node.name] = {"value": name}
            described = {"name": name, "operator": operator_name, "arguments": arguments, "named": named}
            found.append(self.counted(Step(_stack(node), described, [*names_in((arguments, named))], [name])))
        return found, outputs

    def counted(self, step: Step) -> Step:
        """The step with its place; what it uses is used there, and what it defines is known from there on."""
        self.place += 1
        step.first, step.last = step.first or self.place, self.place
        for name in step.uses:
            self.last_use[name] = self.place
        for name in step.defines:
            self.first_place.setdefault(name, self.place)
        return step

    def condition(self, node: Any, name: str, known: dict[str, Any], prefix: str) -> Step:
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
            each.name: known[value.name] if isinstance(value, fx.Node) else encoded(value, known)
            for each, value in zip(places, given, strict=True)
        }
        items, outputs = self.items(module, inside, f"{prefix}{node.name}.")
        known[node.name] = outputs
        stacks = [item.stack for item in items] or [_stack(node)]
        shared = [each[0] for each in zip(*stacks, strict=False) if len(set(each)) == 1]
        defined = [each for item in items for each in item.defines]
        uses = [*names_in(outputs), *(each for item in items for each in item.uses)]
        outside = [each for each in dict.fromkeys(uses) if each not in defined]
        step = {"condition": described, "result": outputs}
        return self.counted(Step(shared, step, outside, defined, items, first))

    def body(self, items: list[Step], depth: int, cursor: Cursor) -> list[dict[str, Any]]:
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
                within = Cursor(call.inner if call is not None else [])
                inner = self.body(items[start:end], depth + 1, within)
                inner += [step for each in within.left for step in self.without_steps(each)]
                steps.append(self.module_call(key, inner, items[start:end]))
            start = end
        return steps

    def module_call(self, key: str, steps: list[dict[str, Any]], items: list[Step]) -> dict[str, Any]:
        """The call of a module as one block: as it was called, or as values go in and out where that is not known."""
        first, last = items[0].first, items[-1].last
        defined = [name for item in items for name in item.defines]
        inside = set(defined)
        used = dict.fromkeys(name for item in items for name in item.uses if name not in inside)
        escaping = [name for name in defined if self.last_use.get(name, 0) > last]
        arguments, named, result = self.signature(key, first)
        returned = set(names_in(result))
        known = inside | {name for name in returned if self.first_place.get(name, first) < first}
        if arguments is None or not set(escaping) <= returned or not returned <= known:
            arguments, named = [{"value": name} for name in used], {}
            values = [{"value": name} for name in escaping]
            result = values[0] if len(values) == 1 else {"tuple": values}
        return {"module": own_name(key), "arguments": arguments, "named": named, "steps": steps, "result": result}

    def without_steps(self, call: Call) -> list[dict[str, Any]]:
        """The call of a module that computes nothing, as nn.Identity: it counts where modules draw random numbers."""
        arguments, named, result = self.signature(call.path, self.place + 1)
        if arguments is None or not {*names_in(result)} <= {*names_in((arguments, named))}:
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
            arguments, named = _pytree.tree_unflatten(
                [argument_of(each) for each in signature.inputs], signature.in_spec
            )
            result = _pytree.tree_unflatten([argument_of(each) for each in signature.outputs], signature.out_spec)
            described = (
                [template_of(each) for each in arguments],
                {key: template_of(each) for key, each in named.items()},
            )
            names = [*names_in(described)]
            if all(self.first_place.get(name, before) < before for name in names):
                return *described, template_of(result)
        except (TypeError, ValueError, AttributeError, KeyError):
            pass
        return None, {}, None


def _join(items: list[Step], depth: int, cursor: Cursor) -> None:
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
