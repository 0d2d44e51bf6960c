"""The checks of `doctor`, each as a line: its name, its verdict, and what was found in a few words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fromage_cli.counting import counted
from fromage_cli.doctor.result import OWN, DoctorResult
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, Why, known
from fromage_cli.terminal.words import in_bytes

VERDICTS = {"right": "right", "wrong": "wrong", "refused": "none", "unavailable": "not here"}
"""What the page calls the verdicts on kernels of attention."""


@dataclass(frozen=True)
class Check:
    """One check, as a line of the page and of the main table."""

    name: str
    status: str
    """`ok`, `warn`, `fail` or `skipped`."""
    what: str
    """What was found, as a few words."""


def checks(result: DoctorResult, findings: Sequence[Finding]) -> tuple[Check, ...]:
    """Every check with its verdict, in the order of the page."""
    graver = ("warn", "fail")
    found = []
    for name, (say, codes) in CHECKS.items():
        said = say(result)
        severities = [each.severity for each in findings if each.code in codes]
        missing = isinstance(said, Missing)
        if isinstance(said, Missing) and said.code is Why.NOT_EVALUATED:
            severities.append("warn" if name == "files" else "fail")
        worst = max((each for each in severities if each in graver), key=graver.index, default=None)
        status = worst or ("skipped" if missing else "ok")
        found.append(Check(name, status, said.words if isinstance(said, Missing) else said))
    return tuple(found)


def self_test(result: DoctorResult) -> str | Missing:
    """How close the breakdown of each device is to the known one."""
    if isinstance(result.self_test, Missing):
        return result.self_test
    said = (
        f"on {one.device} a known breakdown comes out to {one.largest_gap:.1g} ({one.limit:.0g} allowed)"
        for one in result.self_test
    )
    return "; ".join(said)


def attention(result: DoctorResult) -> str | Missing:
    """Whether second derivatives are right on each device, and with which of torch's kernels."""
    if isinstance(result.attention, Missing):
        return result.attention
    said = []
    for device in dict.fromkeys(one.device for one in result.attention):
        here = [one for one in result.attention if one.device == device]
        own = next(one.verdict for one in here if one.backend == OWN)
        kernels = [f"{one.backend} {VERDICTS[one.verdict]}" for one in here if one.backend != OWN]
        said.append(f"on {device} second derivatives are {own}; by torch's own kernels: {', '.join(kernels)}")
    return "; ".join(said)


def files(result: DoctorResult) -> str | Missing:
    """How many tensors came back from the temporary directory, and the space that is left there."""
    place = result.temporary_directory
    if isinstance(place.written, Missing):
        return place.written
    left = "" if isinstance(place.free, Missing) else f", {in_bytes(place.free)} free"
    return f"{place.written} of {place.of} tensors written and read in {place.path}{left}"


def packages(result: DoctorResult) -> str:
    """The versions of this program and of what it runs on."""
    own = [f"fromage-diag {result.tool}", f"Python {result.python}"]
    return ", ".join((*own, *(f"{one.name} {known(one.version) or 'missing'}" for one in result.versions)))


def extras(result: DoctorResult) -> str:
    """Which extras are installed, and which are not."""
    there = [one.name for one in result.extras if not isinstance(one.version, Missing)]
    absent = [one.name for one in result.extras if isinstance(one.version, Missing)]
    said = [f"installed: {', '.join(there)}"] if there else []
    said += [f"not installed: {', '.join(absent)} (-v: how)"] if absent else []
    return "; ".join(said)


def processors(result: DoctorResult) -> str:
    """The processors and threads of this process."""
    found, said = result.processors, [f"{result.processors.usable} of the machine's {result.processors.machine}"]
    said += [] if isinstance(found.threads, Missing) else [f"{counted(found.threads, 'thread')} of torch"]
    said += [] if found.omp_num_threads is None else [f"OMP_NUM_THREADS={found.omp_num_threads}"]
    return ", ".join(said)


def memory(result: DoctorResult) -> str:
    """Main memory that can still be had, that of the machine, and the limit of this process."""
    found, said = result.memory, []
    said += [] if isinstance(found.available, Missing) else [f"{in_bytes(found.available)} available"]
    said += [] if isinstance(found.machine, Missing) else [f"{in_bytes(found.machine)} in the machine"]
    none = isinstance(found.limit, Missing)
    said += ["no limit for this process"] if none else [f"{in_bytes(known(found.limit) or 0)} for this process"]
    return ", ".join(said)


def devices(result: DoctorResult) -> str | Missing:
    """The accelerators with their memory."""
    if isinstance(result.devices, Missing):
        return result.devices
    said = []
    for one in result.devices:
        room = "" if isinstance(one.memory, Missing) else f", {in_bytes(one.memory)}"
        room += "" if isinstance(one.free, Missing) else f" ({in_bytes(one.free)} free)"
        said.append(f"{one.name} {one.model}{room}" + (", not used by this program" if one.name == "mps" else ""))
    return "; ".join(said) or "no GPU; the processor computes"


def job(result: DoctorResult) -> str:
    """What the program makes of its job and its ranks."""
    return result.job.meaning


def configuration(result: DoctorResult) -> str:
    """How many values are set, and whether the project's file is trusted."""
    used = sum(one.in_effect for one in result.configuration)
    said = f"{counted(used, 'value')} in effect" if used else "nothing is set"
    return said if result.project is None else f"{said}, {result.project.path} {result.project.trust}"


def terminal(result: DoctorResult) -> str:
    """What the answer is written on."""
    found = result.terminal
    kind, colour = "a terminal" if found.is_terminal else "no terminal", "colours" if found.colour else "no colours"
    return f"{kind}, {found.columns} columns, {colour}, {'ASCII alone' if found.ascii_only else found.encoding}"


CHECKS: Mapping[str, tuple[Callable[[DoctorResult], str | Missing], tuple[str, ...]]] = {
    "self-test": (self_test, ("self-test-failed",)),
    "attention": (attention, ("attention-second-derivative-wrong", "attention-backend-wrong")),
    "files": (files, ("temporary-directory-not-usable", "files-differ")),
    "packages": (packages, ("package-not-usable", "package-too-old")),
    "extras": (extras, ()),
    "processors": (processors, ("threads-exceed-processors",)),
    "memory": (memory, ()),
    "devices": (devices, ("device-not-usable", "gpu-not-seen")),
    "job": (job, ("ranks-not-readable",)),
    "configuration": (
        configuration,
        ("configuration-wrong", "setting-without-effect", "configuration-not-trusted"),
    ),
    "terminal": (terminal, ()),
}
"""By name: what says what was found, and the findings that it may have."""
