"""What keeps the program from working here, or from giving right numbers."""

from collections.abc import Iterator

from fromage_cli.counting import counted
from fromage_cli.doctor.job import gpus_of
from fromage_cli.doctor.result import NOT_TRUSTED, OWN, DoctorResult
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, Why
from fromage_cli.terminal.words import visible


def judge(result: DoctorResult) -> tuple[Finding, ...]:
    """What needs the user, in the order of the page."""
    return (
        *_numbers(result),
        *_installed(result),
        *_machine(result),
        *_configured(result),
    )


def _numbers(result: DoctorResult) -> Iterator[Finding]:
    """Of the answers that are known: which of them came out wrong."""
    for test in () if isinstance(result.self_test, Missing) else result.self_test:
        if not test.passed:
            yield Finding(
                code="self-test-failed",
                severity="fail",
                message=f"on {test.device} a breakdown whose answer is known is off by {test.largest_gap:.2g}",
                value=test.largest_gap,
                limit=test.limit,
                hint="Trust no number from here. Install torch again in a fresh environment, and run doctor there.",
            )
    for one in () if isinstance(result.attention, Missing) else result.attention:
        value = None if isinstance(one.gap, Missing) else one.gap
        if one.backend == OWN and one.verdict != "right":
            how = "are wrong" if one.verdict == "wrong" else "cannot be computed"
            yield Finding(
                code="attention-second-derivative-wrong",
                severity="fail",
                message=f"on {one.device} second derivatives through attention {how}",
                value=value,
                hint="Use another version of torch for sharpness, and for networks with attention.",
            )
        elif one.verdict == "wrong":
            yield Finding(
                code="attention-backend-wrong",
                severity="warn",
                message=f"on {one.device} torch's kernel {one.backend} gives wrong second derivatives of attention",
                value=value,
                hint="This program does not use it. In code of your own use sdpa_kernel(SDPBackend.MATH).",
            )
    place = result.temporary_directory
    if place.passed_over is not None:
        yield Finding(
            code="temporary-directory-not-usable",
            severity="warn",
            message=f"no file can be written in {visible(place.passed_over)}, which TMPDIR names: "
            f"temporary files go to {visible(place.path)}",
            hint="Create that directory, or set TMPDIR to one with space that you may write in.",
        )
    if isinstance(place.written, Missing) and place.written.code is Why.NOT_EVALUATED:
        yield Finding(
            code="temporary-directory-not-usable",
            severity="warn",
            message=f"no file can be written and read in {visible(place.path)}: {visible(place.written.words)}",
            hint="Set TMPDIR to a directory with space that you may write in.",
        )
    elif not isinstance(place.written, Missing) and place.written < place.of:
        yield Finding(
            code="files-differ",
            severity="fail",
            message=f"of {place.of} tensors written as safetensors {place.written} came back as they were",
            value=float(place.written),
            limit=float(place.of),
            hint="Look at the disk, and install safetensors and torch again.",
        )
    for failure in result.failures:
        yield Finding(
            code="check-ended-in-error",
            severity="fail",
            message=visible(failure),
            hint="Install torch again in a fresh environment. Where that does not help, report it.",
        )


def _installed(result: DoctorResult) -> Iterator[Finding]:
    for one in result.versions:
        install = f"Type: python -m pip install '{one.name}>={one.least}'"
        if isinstance(one.version, Missing):
            yield Finding(
                code="package-not-usable",
                severity="fail",
                message=f"{one.name} cannot be imported: {visible(one.version.words)}",
                hint=install,
            )
        elif not one.recent_enough:
            yield Finding(
                code="package-too-old",
                severity="warn",
                message=f"{one.name} is {visible(one.version)}, and {one.least} is the oldest that is supported",
                hint=install,
            )


def _machine(result: DoctorResult) -> Iterator[Finding]:
    processors, devices = result.processors, result.devices
    if not isinstance(processors.threads, Missing) and processors.threads > processors.usable:
        yield Finding(
            code="threads-exceed-processors",
            severity="warn",
            message=f"torch computes with {counted(processors.threads, 'thread')} on "
            f"{counted(processors.usable, 'processor')}",
            value=float(processors.threads),
            limit=float(processors.usable),
            hint=f"Set OMP_NUM_THREADS={processors.usable}, or ask for more processors.",
        )
    for one in () if isinstance(devices, Missing) else devices:
        if isinstance(one.free, Missing) and one.free.code is Why.NOT_EVALUATED:
            yield Finding(
                code="device-not-usable",
                severity="fail",
                message=f"{one.name} does not answer: {visible(one.free.words)}",
                hint="Look at nvidia-smi: another process may hold it. Until then give --device cpu.",
            )
    gpus = gpus_of(result.job)
    if gpus is not None and devices == ():
        yield Finding(
            code="gpu-not-seen",
            severity="warn",
            message=f"the job was given GPUs ({visible(gpus)}), and torch sees none",
            hint="Install a torch with CUDA that fits the driver, and look at CUDA_VISIBLE_DEVICES.",
        )
    if isinstance(result.job.rank, Missing):
        yield Finding(
            code="ranks-not-readable",
            severity="fail",
            message=f"the place among several processes cannot be read: {visible(result.job.rank.words)}",
            hint="Start with srun or torchrun, or give --nproc 1 to compute alone.",
        )


def _configured(result: DoctorResult) -> Iterator[Finding]:
    for fault in result.faults:
        yield Finding(
            code="configuration-wrong",
            severity="fail",
            message=f"commands cannot read the configuration: {visible(fault).rstrip('.')}",
            hint="Correct it: until then every command that reads it ends with exit 2.",
        )
    for one in result.configuration:
        if one.unknown:
            yield Finding(
                code="setting-without-effect",
                severity="warn",
                message=f"{visible(one.where)} has no effect: {visible(one.reason)}",
                hint="Correct the name, or unset it.",
            )
    if result.project is not None and result.project.trust == NOT_TRUSTED:
        yield Finding(
            code="configuration-not-trusted",
            severity="warn",
            message=f"{visible(result.project.path)} names code that you have not trusted: "
            f"{visible(', '.join(result.project.code))}",
            hint="If you have read it, type: fromage-diag trust DIRECTORY, with the directory of that file.",
        )
