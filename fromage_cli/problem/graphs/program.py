"""Running a graph: each step in its order, within the modules of the network that they belong to."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fromage_cli.errors import InputError, MismatchError
from fromage_cli.problem.data.pytrees import named_tensors
from fromage_cli.problem.graphs.allowance import Allowance
from fromage_cli.problem.graphs.graph import Block, Device, Graph, Held, Operation, Rows, Value, values_in

Values = dict[str, Any]
"""What was computed so far, by name."""
Filler = Callable[[Values], Any]
"""Puts what was computed into an argument."""


class Program:
    """The graphs of one network, by mode, and the modules and tensors that they use.

    The modules are called as the network's own code called them. So hooks see what they saw there, and a replacement of
    a weight is used wherever the module uses it.
    """

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        dtype: torch.dtype,
        constants: Mapping[str, Tensor],
        *,
        aliases: Mapping[str, str],
        inputs: Sequence[tuple[int, ...]] = (),
        rows: int | None = None,
    ) -> None:
        self.graphs = graphs
        self.dtype = dtype
        """The precision of the weights when the graphs were made; a graph that names it means that of the weights."""
        self.constants = dict(constants)
        self.aliases = aliases
        """Further names of tied tensors, and the first ones."""
        self.inputs, self.rows = inputs, rows
        """The shapes of the inputs without their rows; and how many rows there must be, None where any number may."""
        self.modules: dict[str, nn.Module] = {}
        self.mode = next(iter(graphs))
        self.precision, self.device, self.rows_at_hand = dtype, torch.device("cpu"), 0
        self._running = False
        """Whether the graph of a loss is run, within which the network is called."""
        self._switching: list[nn.Module] = []
        """The modules that mode `auto` leaves in training."""
        self._calls: dict[tuple[str, str], list[_Compiled]] = {}
        self._pending: tuple[_Compiled, Values] | None = None
        self._allowances = {mode: Allowance() for mode in graphs}
        self._bodies: dict[str, _Compiled] = {}

    def attach(self, network: nn.Module) -> None:
        """Take the network whose modules the graphs name.

        Raises InputError where a graph names a module or a tensor that it does not have.
        """
        self.modules = dict(network.named_modules(remove_duplicate=False))
        self._switching = [each for each in self.modules.values() if isinstance(each, _NormBase | nn.RNNBase)]
        network.register_forward_pre_hook(self.begin, with_kwargs=True)
        for mode, graph in self.graphs.items():
            for held in graph.held:
                owner, _, leaf = self.aliases.get(held.name, held.name).rpartition(".")
                module = self.modules.get(owner)
                tensors = {**module._parameters, **module._buffers} if module is not None else {}
                found = self.constants.get(held.name) if held.kind == "constant" else tensors.get(leaf)
                if found is None:
                    raise InputError(
                        f"The graph uses the {held.kind} {held.name[:80]!r}, which is not there.", _DAMAGED
                    )
            self._bodies[mode] = self._compiled(graph.body, mode)

    def run(self, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """What the whole graph of the present mode returns for these arguments."""
        self.begin(self.modules[""], arguments, named)
        body, allowance = self._bodies[self.mode], self._allowances[self.mode]
        values = body.bound(arguments, named, {})
        self._check_inputs(values)
        self._running = True
        try:
            found = body.run(values, self, allowance)
        finally:
            self._running = False
        allowance.passed = True
        return found

    def loss_of(self, network: nn.Module, data: Any) -> Any:
        """What the user's loss function returned for these data: the graph is that of the loss.

        Raises MismatchError where the data hold another number of tensors than those that the graph was made with.
        """
        tensors = [tensor for _, tensor in named_tensors(data)]
        expected = len(self.graphs[self.mode].inputs)
        if len(tensors) != expected:
            raise MismatchError(
                f"The loss was saved for a batch of {expected} tensors, and this one has {len(tensors)}.",
                "Give a batch that is arranged as the saved one. fromage-diag bundle info shows it.",
            )
        return self.run(tensors, {})

    def call(self, path: str, /, *arguments: Any, **named: Any) -> Any:
        """What a module of the network returns, which runs within a pass or is called by itself."""
        pending, self._pending = self._pending, None
        if pending is not None and pending[0].block.module == path:  # a list of modules may be run in another way
            compiled, outer = pending
            return compiled.run(compiled.bound(arguments, named, outer), self, self._allowances[self.mode])
        calls = self._calls.get((self.mode, path), [])
        if len(calls) != 1 or not set(calls[0].block.outer) <= set(calls[0].numbers):
            raise MismatchError(
                f"The graph of the bundle cannot run the module {path or 'of the whole network'!r} by itself.",
                "Give --model file.py:factory with the bundle. Or leave out what needs it, such as --recompute.",
            )
        if path == "":
            values = calls[0].bound_by_name(inspect.signature(self.modules[""].forward), arguments, named)
            self._check_inputs(values)
        else:
            values = calls[0].bound(arguments, named, calls[0].numbers)
        found = calls[0].run(values, self, self._allowances[self.mode])
        self._allowances[self.mode].passed |= path == ""
        return found

    def step_into(
        self, compiled: "_Compiled", arguments: Sequence[Any], named: Mapping[str, Any], outer: Values
    ) -> Any:
        """Calls a module, so that its hooks run."""
        self._pending = compiled, outer
        try:
            return self.modules[str(compiled.block.module)](*arguments, **named)
        finally:
            self._pending = None

    def _check_inputs(self, values: Values) -> None:
        """Raises MismatchError where inputs are not as those that the graph was made with."""
        for name, shape in zip(self.graphs[self.mode].inputs, self.inputs, strict=False):
            tensor = values.get(name)
            if not isinstance(tensor, Tensor):
                continue
            if tuple(tensor.shape[1:]) != shape:
                raise MismatchError(
                    f"The network was saved for rows of shape {list(shape)}, and these have {list(tensor.shape[1:])}.",
                    "Give rows of the saved shape. For others give --model file.py:factory with the bundle.",
                )
            if self.rows is not None and tensor.shape[0] != self.rows:
                raise MismatchError(
                    f"The graph of this network holds for {self.rows} rows alone, and {tensor.shape[0]} were given.",
                    "Leave --micro-batch out. For another number of rows give --model file.py:factory with the bundle.",
                )

    def begin(self, network: nn.Module, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Looks at the network before a pass: its mode, its precision, its device, and the number of rows.

        Raises MismatchError where there is no graph for the mode.
        """
        by_batch = any(module.training for module in self._switching)
        wanted = "train" if network.training else "auto" if by_batch else "eval"
        if wanted not in self.graphs:
            raise MismatchError(
                f"The bundle has no graph of the network in mode {wanted}, but of {', '.join(self.graphs)}.",
                f"Give --mode {next(iter(self.graphs))}. Or give --model file.py:factory with the bundle.",
            )
        self.mode = wanted
        weight = next((each for each in network.parameters() if each.is_floating_point()), None)
        if weight is not None:
            self.precision, self.device = weight.dtype, weight.device
        if not self._running:
            tensors = [tensor for _, tensor in named_tensors([*arguments, dict(named)]) if tensor.dim()]
            self.rows_at_hand = len(tensors[0]) if tensors else 0

    def _compiled(self, block: Block, mode: str) -> "_Compiled":
        if block.module is not None and block.module not in self.modules:
            raise InputError(f"The graph calls the module {block.module[:80]!r}, which the network lacks.", _DAMAGED)
        inner = [self._compiled(step, mode) if isinstance(step, Block) else step for step in block.steps]
        compiled = _Compiled(block, inner, self)
        if block.module is not None:
            self._calls.setdefault((mode, block.module), []).append(compiled)
        return compiled

    def filler(self, template: Any) -> Filler:
        """What puts values into an argument."""
        if isinstance(template, list | tuple):
            kind, parts = type(template), [self.filler(item) for item in template]
            return lambda values: kind(part(values) for part in parts)
        if isinstance(template, Mapping):
            named = {key: self.filler(item) for key, item in template.items()}
            return lambda values: {key: part(values) for key, part in named.items()}
        if isinstance(template, slice):
            ends = [self.filler(end) for end in (template.start, template.stop, template.step)]
            return lambda values: slice(*(end(values) for end in ends))
        if isinstance(template, Held):
            return self._held(template)
        if isinstance(template, torch.dtype):
            return self._typed(template)
        found: Mapping[type, Filler] = {
            Value: lambda values: values[template.name],
            Device: lambda values: self.device,
            Rows: lambda values: self.rows_at_hand,
        }
        return found.get(type(template), lambda values: template)

    def _held(self, held: Held) -> Filler:
        """What reads a tensor that the network or the file holds, whenever it is used."""
        if held.kind == "constant":
            return lambda values: self.constant(held.name)
        owner, _, leaf = self.aliases.get(held.name, held.name).rpartition(".")
        return _reading(self.modules[owner], leaf)

    def _typed(self, dtype: torch.dtype) -> Filler:
        """A type that a graph names: where that was the weights', it is what the weights have now."""
        if dtype == self.dtype:
            return lambda values: self.precision
        if dtype.is_complex and dtype == self.dtype.to_complex():
            return lambda values: self.precision.to_complex()
        return lambda values: dtype

    def constant(self, name: str) -> Tensor:
        """A constant of the graph, where the weights are and in their precision."""
        tensor = self.constants[name]
        wanted = self.precision if tensor.dtype == self.dtype else tensor.dtype
        if tensor.device != self.device or tensor.dtype != wanted:
            tensor = self.constants[name] = tensor.to(self.device, wanted)
        return tensor


SETTING_PLACES = {
    **dict.fromkeys(("batch_norm", "instance_norm"), 6),
    **dict.fromkeys(("dropout", "dropout_", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), 1),
    "scaled_dot_product_attention": 4,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), 5),
}
"""Which argument of an operator is a probability of dropout, or the momentum of running statistics."""
_DAMAGED = "The file is damaged, or was not written by fromage-diag."


class _Compiled:
    """A block that is ready to run."""

    def __init__(self, block: Block, steps: Sequence["Operation | _Compiled"], program: Program) -> None:
        self.block = block
        self.numbers: Values = {}
        """The sizes that the last run took from outside: a pass that is made again takes them too."""
        self.arguments = [program.filler(template) for template in block.arguments]
        self.named = {key: program.filler(template) for key, template in block.named.items()}
        self.result = program.filler(block.result)
        last: dict[str, int] = {}
        for place, step in enumerate(steps):
            for name in _names_used(step):
                last[name] = place
            made = [step.name] if isinstance(step, Operation) else [v.name for v in values_in(step.block.result)]
            for name in made:
                last.setdefault(name, place)
        kept = {value.name for value in values_in(block.result)}
        dead: list[list[str]] = [[] for _ in steps]
        for name, place in last.items():
            if name not in kept:
                dead[place].append(name)
        modules = program.modules
        self.called = {modules.get(step.block.module or "") for step in steps if isinstance(step, _Compiled)}
        """The modules that this block calls."""
        self.steps = [
            (step, *(self._fillers(step, program) if isinstance(step, Operation) else ([], {})), names)
            for step, names in zip(steps, dead, strict=True)
        ]
        """Each step, what fills its arguments, and the values that are not used behind it."""

    def _fillers(self, step: Operation, program: Program) -> tuple[list[Filler], dict[str, Filler]]:
        """What fills the arguments of an operator; what SETTING_PLACES names is read from the module, as code does."""
        fillers = [program.filler(item) for item in step.arguments]
        named = {key: program.filler(item) for key, item in step.named.items()}
        module = program.modules.get(self.block.module) if self.block.module is not None else None
        place = SETTING_PLACES.get(step.operator.split(".")[1] if "." in step.operator else "")
        if module is None or place is None:
            return fillers, named
        given = step.arguments[place] if len(step.arguments) > place else step.named.get("dropout_p")
        read = _setting(module, given, self.called)
        if read is not None and len(fillers) > place:
            fillers[place] = read
        elif read is not None:
            named["dropout_p"] = read
        return fillers, named

    def bound(self, arguments: Sequence[Any], named: Mapping[str, Any], outer: Values) -> Values:
        """The values that a run begins with."""
        values = dict(outer)
        _bind([*self.block.arguments], [*arguments], values)
        _bind(dict(self.block.named), dict(named), values)
        return values

    def bound_by_name(self, signature: inspect.Signature, arguments: Sequence[Any], named: Mapping[str, Any]) -> Values:
        """The same where it does not matter which arguments are given by name."""
        template = signature.bind(*self.block.arguments, **self.block.named).arguments
        given = signature.bind(*arguments, **named).arguments
        settled = [key for key, value in template.items() if key not in given and not any(values_in([value]))]
        values: Values = {}
        _bind({key: value for key, value in template.items() if key not in settled}, dict(given), values)
        return values

    def run(self, values: Values, program: Program, allowance: Allowance) -> Any:
        """Runs the steps and gives the result."""
        for step, arguments, named, dead in self.steps:
            if isinstance(step, Operation):
                given = [fill(values) for fill in arguments]
                given_named = {key: fill(values) for key, fill in named.items()}
                if not allowance.passed:
                    allowance.check(step.operator, step.function, given, given_named)
                values[step.name] = step.function(*given, **given_named)
                del given, given_named
            else:
                step.run_inside(values, program, allowance)
            for name in dead:
                values.pop(name, None)
        return self.result(values)

    def run_inside(self, values: Values, program: Program, allowance: Allowance) -> None:
        """Runs as a step of another block, whose values it reads and adds to."""
        outer = {name: values[name] for name in self.block.outer}
        given = [fill(values) for fill in self.arguments]
        named = {key: fill(values) for key, fill in self.named.items()}
        if self.block.module is not None:
            self.numbers = {name: value for name, value in outer.items() if isinstance(value, int | float)}
            found = program.step_into(self, given, named, outer)
        else:
            with _within(self.block.condition, program.device):
                found = self.run(self.bound(given, named, outer), program, allowance)
        _bind(self.block.result, found, values)


def _setting(module: nn.Module, given: object, called: Collection[nn.Module | None]) -> Filler | None:
    """What reads, from a module or a layer of it that is not called, the setting that an operator in it was given.

    None where no setting has this value. Attention takes the probability of a dropout layer that it holds.
    """
    layer = isinstance(module, nn.modules.dropout._DropoutNd)
    norm = isinstance(module, _NormBase)
    for attribute, value in vars(module).items():
        meant = attribute == ("p" if layer else "momentum") if layer or norm else "drop" in attribute
        if meant and isinstance(value, float) and value == given:
            return _reading(module, attribute)
    for inner in module.children():
        if isinstance(inner, nn.modules.dropout._DropoutNd) and inner.p == given and inner not in called:
            return _reading(inner, "p")
    return None


def _reading(module: nn.Module, name: str) -> Filler:
    """What reads an attribute of a module whenever it is used: it may have been replaced."""
    return lambda values: getattr(module, name)


def _names_used(step: "Operation | _Compiled") -> Iterator[str]:
    block = step if isinstance(step, Operation) else step.block
    yield from (value.name for value in values_in((block.arguments, block.named)))
    if isinstance(block, Block):
        yield from block.outer


def _within(condition: tuple[str, Any] | None, device: torch.device) -> AbstractContextManager[Any]:
    """The condition that steps are run in."""
    if condition is None:
        return nullcontext()
    kind, value = condition
    if kind == "grad":
        return torch.set_grad_enabled(value and torch.is_grad_enabled())
    dtype = getattr(torch, value) if value else None
    return torch.autocast(device.type, dtype=dtype, enabled=value is not None)


def _bind(template: Any, given: Any, values: Values) -> None:
    """Gives the values of a template the names that they have there.

    Raises MismatchError where what was given is arranged otherwise.
    """
    if isinstance(template, Value):
        values[template.name] = given
    elif isinstance(template, list | tuple):
        if not isinstance(given, list | tuple) or len(given) != len(template):
            raise _otherwise(template, given)
        for inner, item in zip(template, given, strict=True):
            _bind(inner, item, values)
    elif isinstance(template, Mapping):
        if not isinstance(given, Mapping) or set(given) != set(template):
            raise _otherwise(template, given)
        for key, inner in template.items():
            _bind(inner, given[key], values)


def _otherwise(template: Any, given: Any) -> MismatchError:
    expected = sorted(template) if isinstance(template, Mapping) else f"{len(template)} values"
    came = sorted(given) if isinstance(given, Mapping) else type(given).__name__
    if isinstance(given, list | tuple):
        came = f"{len(given)} values"
    return MismatchError(
        f"The network was saved with {expected} as its arguments, and now it is given {came}.",
        "Give a batch that is arranged as the saved one. fromage-diag bundle info shows it.",
    )
