"""What `doctor` finds: plain values whose field names are the JSON keys."""

from dataclasses import dataclass, field

from fromage_cli.missing import LIMIT_REACHED, Missing

OWN = "measured with"
"""The way in which this program computes attention where second derivatives are taken."""
NO_CODE, TRUSTED, NOT_TRUSTED = "names no code", "trusted", "not trusted"


@dataclass(frozen=True)
class Version:
    """A package that the program runs on."""

    name: str
    version: str | Missing
    """Missing where it cannot be imported."""
    least: str
    """The oldest version that it works with."""
    recent_enough: bool
    """Whether the version is the oldest that is supported or newer."""


@dataclass(frozen=True)
class Extra:
    """A package that only some options need."""

    name: str
    """As in `pip install 'fromage-diag[NAME]'`."""
    purpose: str
    """What its options are for."""
    version: str | Missing
    """Of its package; missing where it is not installed."""
    install: str
    """The line that installs it."""


@dataclass(frozen=True)
class Processors:
    """The processors of the main machine."""

    usable: int
    """How many processors this process may run on."""
    machine: int
    """How many the machine has."""
    threads: int | Missing
    """How many threads torch computes with."""
    omp_num_threads: str | None
    """The variable OMP_NUM_THREADS, as it is set."""


@dataclass(frozen=True)
class Memory:
    """Main memory, in bytes."""

    machine: int | Missing
    """Bytes of main memory in the machine."""
    available: int | Missing
    """Bytes that are free for new processes."""
    limit: int | Missing
    """The most that the control group of this process may use."""


@dataclass(frozen=True)
class Device:
    """An accelerator that torch sees."""

    name: str
    """As `--device` takes it."""
    model: str
    """The name of the accelerator's model, as torch tells it; of Apple's chips `Apple GPU`."""
    memory: int | Missing
    """Bytes."""
    free: int | Missing
    """Bytes; missing where the device does not answer."""


@dataclass(frozen=True)
class Setting:
    """A value that an environment variable or the project's configuration gives to a flag."""

    name: str
    """The flag without its hyphens; of a variable without a flag the variable's name."""
    value: str
    """The value of the setting as it was written, without passwords and signatures of addresses."""
    origin: str
    """`environment` or `project`."""
    where: str
    """The variable, or the file and table."""
    in_effect: bool
    """Whether a command would use the value."""
    reason: str = ""
    """Why it has no effect."""
    unknown: bool = False
    """Whether that is because no command has such a flag."""


@dataclass(frozen=True)
class Project:
    """The project's configuration file."""

    path: str
    trust: str
    """`names no code`, `trusted` or `not trusted`."""
    code: tuple[str, ...]
    """What it names that would run."""


@dataclass(frozen=True)
class Variable:
    """An environment variable of a job or a launcher."""

    name: str
    value: str
    """The value of the variable, as it was written."""


@dataclass(frozen=True)
class Job:
    """What a batch system and a launcher tell this process."""

    scheduler: str | None
    """`slurm`, or None outside of a job."""
    rank: int | Missing
    """The number of this process among those started together."""
    count: int | Missing
    """Processes that were started together; 1 for one that is alone."""
    meaning: str
    """What the program makes of it, as a sentence without its full stop."""
    variables: tuple[Variable, ...]


@dataclass(frozen=True)
class Terminal:
    """Where the answer is written."""

    is_terminal: bool
    """Whether standard output is a terminal."""
    columns: int
    """How many characters fit into a line."""
    colour: bool
    """Whether pages have colours."""
    encoding: str
    """Of standard output."""
    ascii_only: bool
    """Whether signs such as η are spelled out."""


@dataclass(frozen=True)
class TemporaryDirectory:
    """Where temporary files go, and a safetensors file that was written and read there."""

    path: str
    free: int | Missing
    """Bytes."""
    written: int | Missing = LIMIT_REACHED
    """Tensors that came back bit for bit."""
    of: int = 0
    """Tensors that were written."""
    passed_over: str | None = None
    """The directory that TMPDIR names, where files go elsewhere because none can be written there."""


@dataclass(frozen=True)
class Attention:
    """Second derivatives through one implementation of attention, against the formula written out."""

    device: str
    """The device that it was computed on: `cpu`, `cuda:0` …"""
    backend: str
    """`measured with` is the way of this program; the others are torch's own kernels."""
    verdict: str
    """`right`, `wrong`, `refused` (torch has no second derivative) or `unavailable`."""
    gap: float | Missing
    """Largest ||difference|| / ||product|| over queries, keys and values, plain, causal and masked, in float64."""


@dataclass(frozen=True)
class SelfTest:
    """A breakdown measured on a network whose answer is known."""

    device: str
    """The device that it was computed on: `cpu`, `cuda:0` …"""
    layers: int
    """How many layers the network of the test has."""
    loss_gap: float
    """Largest |measured / known - 1| of the losses along the line."""
    breakdown_gap: float
    """Largest |measured - known| of all layers and steps."""
    curvature_gap: float
    """|measured / known - 1| of the slope of the breakdown, by a Hessian-vector product."""
    limit: float
    """The largest gap that is allowed."""
    seconds: float
    """How long the test took."""

    @property
    def largest_gap(self) -> float:
        """The largest of the gaps."""
        return max(self.loss_gap, self.breakdown_gap, self.curvature_gap)

    @property
    def passed(self) -> bool:
        """Whether every gap is a number within the limit."""
        return all(gap <= self.limit for gap in (self.loss_gap, self.breakdown_gap, self.curvature_gap))


@dataclass(frozen=True)
class DoctorResult:
    """The environment, part by part."""

    python: str
    """The version of Python."""
    platform: str
    """The operating system and the machine's kind."""
    tool: str
    """The version of this program."""
    versions: tuple[Version, ...]
    extras: tuple[Extra, ...]
    processors: Processors
    memory: Memory
    job: Job
    terminal: Terminal
    temporary_directory: TemporaryDirectory
    project: Project | None
    configuration: tuple[Setting, ...]
    faults: tuple[str, ...]
    """What keeps commands from reading the configuration, each a sentence."""
    devices: tuple[Device, ...] | Missing = LIMIT_REACHED
    attention: tuple[Attention, ...] | Missing = LIMIT_REACHED
    self_test: tuple[SelfTest, ...] | Missing = LIMIT_REACHED
    """One for each device that the program computes on."""
    failures: tuple[str, ...] = field(default=())
    """What ended a part of the measurement with an error, each a sentence."""
