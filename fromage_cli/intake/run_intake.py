"""What a command on the checkpoints of one run starts from, and what it must say about them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from fromage_cli.counting import counted
from fromage_cli.errors import UsageError
from fromage_cli.intake.intake import Intake, checkpoint_record
from fromage_cli.intake.opening import BUILD, YOUR_FACTORY, declared_by, likely_problem, names_network, open_problem
from fromage_cli.terminal.answer import Answer, Estimate, estimate_answer
from fromage_cli.terminal.optimizer_options import ScheduleOptions
from fromage_cli.terminal.options import BatchOptions, ModelOptions, NameOptions, RunOptions
from fromage_cli.terminal.progress import Advance, Work, progress
from fromage_cli.terminal.session import TRAINING, current, typed_problem
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number
from fromage_cli.theory.schedules import Schedule

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint
    from fromage_cli.problem.networks.layers import TrainableTensor
    from fromage_cli.problem.user_code.declared import Declared


READS = 10
"""Checkpoints that are read in about the time of a gradient, for the progress bar."""
SPELLED = 2
"""Names of checkpoints that a command to type repeats; of more in one directory it names that."""


@dataclass(frozen=True)
class RunIntake:
    """The checkpoints of a run, first to last, and the layers that all of them have."""

    checkpoints: tuple[Checkpoint, ...]
    names: tuple[str, ...]
    """The layers; with a model, those that it trains."""
    declared: Declared
    """Beside the last checkpoint."""
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    """Notes on what is no layer here."""
    intake: Intake | None = None
    """The last checkpoint in its model, where one is given."""
    layers: Mapping[str, TrainableTensor] = field(default_factory=dict)
    """The model's, by the checkpoint's names."""
    given: tuple[str, ...] = ()
    """What the user named."""

    def with_model(self, tells: str) -> str:
        """The same command with a model, to be typed next for a run without one, and what it `tells`."""
        flags = likely_problem(self.checkpoints[-1], self.declared)
        homes = {str(PurePath(name).parent) for name in self.given}
        names = homes if len(self.given) > SPELLED and len(homes) == 1 else self.given
        typed = f"{shlex.join(names)}{typed_problem(TRAINING)}"
        return f"fromage-diag {current().command} {typed}{flags} tells {tells}.{BUILD if YOUR_FACTORY in flags else ''}"

    @property
    def elements(self) -> int:
        """Of the layers, over all checkpoints."""
        return len(self.checkpoints) * sum(self.checkpoints[-1].entries[name].elements for name in self.names)

    def in_model(self, model: ModelOptions, batch: BatchOptions, run: RunOptions) -> RunIntake:
        """The same with its last checkpoint in its model, if a model or a batch is given: layers can be scaled.

        Raises UsageError under `--autocast`, and what `open_problem` raises.
        """
        if not names_network(self.checkpoints[-1], model, batch):
            return self
        if run.autocast:
            raise UsageError(
                "--autocast rounds to three digits, which is too coarse to test scale invariance.",
                hint="Leave --autocast out.",
            )
        intake = open_problem(self.checkpoints[-1], model, batch, run)
        layers, untrained = intake.trained_layers(self.names)
        left_out = (*self.left_out, *untrained)
        return replace(self, intake=intake, layers=layers, names=tuple(layers) or self.names, left_out=left_out)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]] | None:
        """The trainable tensors' shapes in model order, by the checkpoint's names; None without a model."""
        if self.intake is None:
            return None
        from fromage_cli.problem.networks.weights import stored_names

        problem = self.intake.problem
        stored = stored_names(problem.model, self.checkpoints[-1], problem.trainable)
        return {stored[tensor.name]: tuple(tensor.parameter.shape) for tensor in problem.trainable}

    @contextmanager
    def progress(self, gradients: int = 0) -> Iterator[Advance]:
        """A bar that counts elements read; in a model also the tests of every layer, and so many gradients more."""
        total, work = float(self.elements), None
        if self.intake is not None:
            from fromage_cli.probes import cost
            from fromage_cli.probes.structure.invariance import gradients_of_tests

            evaluations = self.intake.problem.evaluations
            unit = READS * self.elements / len(self.checkpoints)
            total += unit * (gradients_of_tests(len(self.layers)) + gradients)
            work = Work(lambda: unit * cost.gradients(evaluations), lambda: evaluations.doing)
        with progress("reading", total, work) as advance:
            yield advance

    def estimate(
        self, bytes: int, seconds: float, *, gradients: int = 0, copies: float, beside: bool = False
    ) -> Answer:
        """What reading takes, as told; in a model also the tests of every layer, and so many gradients more.

        `copies`: tensors as large as the weights that the model needs, `beside` what reading holds or at another time.
        """
        if self.intake is None:
            return estimate_answer(Estimate(0.0, bytes, seconds))
        from fromage_cli.probes.cost import measure_cost
        from fromage_cli.probes.lines.draws import gradients_of_draws
        from fromage_cli.probes.structure.invariance import gradients_of_tests

        cost = measure_cost(self.intake.problem)
        count = gradients_of_tests(len(self.names)) + gradients + gradients_of_draws(self.intake.problem)
        memory = cost.memory(copies=copies)
        held = bytes + memory if beside else max(bytes, memory)
        return self.intake.complete(estimate_answer(Estimate(count, held, seconds + cost.time(count))))

    def complete(self, answer: Answer) -> Answer:
        """The answer with what it was computed from, and every note once."""
        completed = self.intake.complete(answer) if self.intake is not None else answer
        notes = dict.fromkeys((*self.notes, *completed.notes, *self.left_out))
        records = tuple(map(checkpoint_record, self.checkpoints))
        model = () if self.intake is None else self.intake.header[1:2]
        header = (*self.header, *answer.header, *model)
        return replace(completed, header=header, notes=tuple(notes), checkpoints=records)

    @property
    def header(self) -> tuple[str, ...]:
        """The run and its checkpoints, in a few words each."""
        first, last = self.checkpoints[0], self.checkpoints[-1]
        alone = PurePath(first.path).stem if first is last else Path.cwd().name
        run = PurePath(first.path).parent.name or alone
        steps = "" if first.step is None or last.step is None else f", step {first.step} to {last.step}"
        if first is last and last.step is not None:
            steps = f", step {last.step}"
        return run, f"{counted(len(self.checkpoints), 'checkpoint')}{steps}"


def trained_by(settings: Mapping[str, object]) -> tuple[str, ...]:
    """The optimizer and its settings as a header says them, from what the flags became."""
    name, rate, momentum = settings["optimizer"], settings["lr"], settings["momentum"]
    decay, epoch = settings["weight_decay"], settings["steps_per_epoch"]
    if name is None:
        return ()
    at = f" at {number(rate)}" if isinstance(rate, float) else ""
    return (
        f"{OPTIMIZER_TITLES.get(str(name), name)}{at}",
        f"weight decay {number(decay)}" if isinstance(decay, float) and decay else "",
        f"{epoch} steps an epoch" if epoch else "",
        f"momentum {number(momentum)}" if isinstance(momentum, float) and momentum else "",
    )


def gather_run(
    names: Sequence[str], model: ModelOptions, tensors: NameOptions, *, steps_per_epoch: int | None = None
) -> RunIntake:
    """The run that files, patterns and directories stand for; raises as `gather_series` and `lasting_layers` do."""
    from fromage_cli.checkpoints.layers import lasting_layers
    from fromage_cli.checkpoints.runs.gathering import gather_series

    chosen = (model.key, model.ema, model.optimizer_state, model.optimizer_key)
    gathered = gather_series(names, *chosen, steps_per_epoch=steps_per_epoch)
    layers, changed = lasting_layers(gathered.checkpoints, *tensors.globs)
    declared = declared_by(gathered.checkpoints[-1], model.trust)
    return RunIntake(
        gathered.checkpoints,
        tuple(layers),
        declared,
        (*gathered.notes, *declared.notes),
        tuple(changed),
        given=tuple(names),
    )


@dataclass(frozen=True)
class RunSchedule:
    """How the learning rate of a run goes, as given, else as its checkpoints tell."""

    schedule: Schedule | None = field(default_factory=Schedule)
    """None where the rate changes, and how is not known."""
    source: str | None = None
    """The file that tells it; None where it was given, or nothing tells of one."""
    doubt: str | None = None
    """Why the rate is not constant, as a clause, where its schedule is not known."""
    peak: float | None = None
    """The highest rate of a table that was given, else the highest that the checkpoints tell of."""
    assumed: bool = False
    """Whether nothing tells the steps of the run, so that a usual number stands in."""
    told: bool = True
    """Whether anything tells a schedule; else the rate is taken as constant."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of where it comes from."""
        if self.assumed and self.schedule is not None:
            return (f"Steps of the run: taken as {self.schedule.end:.0f}. If that is wrong, give --total-steps.",)
        if self.schedule is None or self.source is None:
            return ()
        steps = "" if self.schedule.end is None else f" over {self.schedule.end:.0f} steps"
        kind = "table" if self.schedule.points else self.schedule.shape
        return (
            (f"Learning rate: a {kind} schedule{steps}, read from {self.source}. To use another, give --schedule."),
        )


def find_schedule(
    checkpoints: Sequence[Checkpoint],
    options: ScheduleOptions,
    declared: Declared,
    steps_per_epoch: int | None = None,
    *,
    usual_steps: int | None = None,
) -> RunSchedule:
    """The schedule of a run: as given, else as its checkpoints tell, else as declared beside them.

    `steps_per_epoch`: of schedulers that count epochs; `usual_steps` stand in where nothing tells the end of a shape.
    Raises UsageError where nothing does, and as `ScheduleOptions.given` and `saved_schedule` do.
    """
    from fromage_cli.checkpoints.runs.saved_schedule import SavedSchedule, saved_schedule

    epoch = steps_per_epoch or declared.steps_per_epoch
    total = options.total_steps or declared.total_steps
    saved = SavedSchedule(total=total)
    if checkpoints:
        saved = saved_schedule(checkpoints, total=total, steps_per_epoch=epoch)
    given, peak = options.given()
    if given is None and saved.schedule is None and (declared.schedule or declared.warmup_steps):
        beside = ScheduleOptions(declared.schedule, declared.warmup_steps, total)
        beside.check()
        given, peak = beside.given()
    if given is None:
        constant = None if saved.doubt else Schedule(total=saved.total)
        source = saved.source if saved.schedule else None
        return RunSchedule(saved.schedule or constant, source, saved.doubt, saved.peak, told=saved.schedule is not None)
    assumed = False
    if not given.points:
        end = saved.schedule.end if saved.schedule is not None else None
        given = replace(given, total=given.total or saved.total or end)
        if given.total is None and usual_steps is not None and (given.shape != "constant" or given.warmup):
            given, assumed = replace(given, total=max(usual_steps, math.ceil(10 * given.warmup))), True
        if given.total is None and given.shape != "constant":
            raise UsageError(
                f"A {given.shape} schedule needs the number of steps of the whole run, which no checkpoint says.",
                hint="Give it with --total-steps, for example --total-steps 10000.",
            )
        if given.total is not None and given.warmup >= given.total:
            raise UsageError(
                f"--warmup-steps is {given.warmup:g}, but the run has {given.total:g} steps; expected fewer.",
                hint="Lower --warmup-steps, or raise --total-steps.",
            )
    return RunSchedule(given, peak=peak or saved.peak, assumed=assumed)
