"""A day on a cluster: the job scripts of docs/cluster.md, as they stand there, on a SLURM of this machine alone."""

import getpass
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "sample_checkpoints"
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SCRIPTS = {named[1]: block for block in BLOCKS if (named := re.search(r"^# (\w+\.sh)$", block, re.MULTILINE))}
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "setpriv")
UNDER_WAY = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}
FIRST_STEPS, ALL_STEPS = 200, 300
"""Those after which the check decides, and those of the whole training."""
SETTINGS = """
ClusterName=day
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 RealMemory=256000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
"""
"""A node that claims 64 processors, so that scripts which ask for many are started."""


@dataclass(frozen=True)
class Cluster:
    """Where jobs are submitted from, with the page's scripts and a training script, and what they find there."""

    folder: Path
    environment: dict[str, str]

    def run(self, command: str, **variables: str) -> str:
        """The output of a command of bash."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def submit(self, script: str, **variables: str) -> None:
        """Runs the page's lines that submit this script."""
        (lines,) = (block for block in BLOCKS if re.search(rf"^.*sbatch.* {script}\b", block, re.MULTILINE))
        self.run(f"set -e\n{lines}", **variables)

    def jobs(self) -> list[tuple[str, str, str]]:
        """Name, state and exit code of the folder's jobs, as they were submitted."""
        jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in self.run("scontrol -o show job").splitlines()]
        own = [job for job in jobs if job.get("WorkDir") == str(self.folder)]
        own.sort(key=lambda job: int(job["JobId"]))
        return [(job["JobName"], job["JobState"], job["ExitCode"].partition(":")[0]) for job in own]

    def wait(self, count: int | None = None) -> list[tuple[str, str, str]]:
        """The folder's jobs, once the first ones, or all, have ended."""
        for _ in range(1200):
            jobs = self.jobs()
            if jobs and not UNDER_WAY & {state for _, state, _ in jobs[:count]}:
                return jobs
            time.sleep(0.5)
        pytest.fail(f"jobs are still under way: {jobs}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of commands that reach a SLURM of two daemons, which end with the tests."""
    if gone := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"needs {', '.join(gone)}, in Debian's package slurm-wlm")
    place, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().partition(".")[0]
    for name in ("state", "spool", "bin"):
        (place / name).mkdir()
    for name, words in {"fromage-diag": "-m fromage_cli", "python": ""}.items():
        (place / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (place / "bin" / name).chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
    settings = SETTINGS.format(ports=ports, user=getpass.getuser(), place=place, host=host)
    (place / "slurm.conf").write_text(settings)
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("SLURM_", "FROMAGE_"))} | {
        "SLURM_CONF": str(place / "slurm.conf"),
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{SAMPLES}",
        "OMP_NUM_THREADS": "1",
        "FROMAGE_DIAG_INTERVAL": "0.5",
    }

    def answer(*words: str) -> str:
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60).stdout

    daemons = []
    try:
        for name in ("slurmctld", "slurmd"):
            with (place / f"{name}.log").open("w") as log:
                words = [
                    "setpriv",
                    "--pdeathsig",
                    "TERM",
                    name,
                    "-D",
                ]  # they end with this process, even if it is killed
                daemons.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
        begun = time.monotonic()
        while answer("sinfo", "--noheader", "--format=%T") != "idle\n":
            if time.monotonic() - begun > 30 or any(daemon.poll() is not None for daemon in daemons):
                said = "".join((place / f"{name}.log").read_text()[-500:] for name in ("slurmctld", "slurmd"))
                pytest.skip(f"SLURM does not come up: {said}")
            time.sleep(0.2)
        yield environment
        answer("scancel", f"--user={getpass.getuser()}")
        cancelled = time.monotonic()
        while answer("squeue", "--noheader") and time.monotonic() - cancelled < 30:
            time.sleep(0.2)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@pytest.fixture
def cluster(slurm: dict[str, str], tmp_path: Path) -> Callable[..., Cluster]:
    """A folder with the page's scripts and a training script, and what jobs that are submitted there find."""

    def made(name: str, **variables: str) -> Cluster:
        folder = tmp_path / name
        shutil.copytree(Path(__file__).parent / "cluster", folder, ignore=shutil.ignore_patterns("__pycache__"))
        for script, text in SCRIPTS.items():
            (folder / script).write_text(text)
            (folder / script).chmod(0o755)
        return Cluster(folder, slurm | variables)

    return made


def losses(run: Path) -> dict[int, float]:
    rows = (line.split(",") for line in (run / "losses.csv").read_text().splitlines())
    return {int(step): float(loss) for step, loss in rows}


def diverged(losses: dict[int, float]) -> float:
    """The first step whose loss is twice the lowest before it, or not finite."""
    lowest = math.inf
    for step, loss in losses.items():
        if not loss < 2.0 * lowest:
            return step
        lowest = min(lowest, loss)
    return math.inf


def warnings(answer: dict[str, Any]) -> set[str]:
    return {found["code"] for found in answer["findings"] if found["severity"] == "warn"}


def test_a_day_with_a_sick_run_and_a_healthy_one(cluster: Callable[..., Cluster]) -> None:
    """Both are watched and checked; the sick one, whose rate is 187 times that of the other, begins again."""
    common = {"RUN": "run", "MODEL": "train.py:build", "BATCH": "train.py:batches"}
    sick = cluster("sick", LR="1.5", WARMUP="300", **common)
    healthy = cluster("healthy", LR="0.008", WARMUP="20", **common)
    for each in (sick, healthy):
        each.submit("watch.sh", STEPS=str(FIRST_STEPS))
    for each in (sick, healthy):
        each.wait(1)
        each.submit("check.sh", STEPS=str(ALL_STEPS))

    assert healthy.wait() == [
        ("train.sh", "COMPLETED", "0"),
        ("watch.sh", "COMPLETED", "0"),
        ("check.sh", "COMPLETED", "0"),
        ("train.sh", "COMPLETED", "0"),
        ("restart.sh", "CANCELLED", "0"),
    ]
    judged = [json.loads(line) for line in (healthy.folder / "run.jsonl").read_text().splitlines()]
    assert [(one["step"], one["result"]["verdict"]) for one in judged] == [(100, "go"), (200, "go")]
    assert diverged(losses(healthy.folder / "run")) == math.inf
    assert (healthy.folder / "run" / f"step-{ALL_STEPS:06d}.pt").exists()

    assert sick.wait() == [
        ("train.sh", "COMPLETED", "0"),
        ("watch.sh", "COMPLETED", "0"),
        ("check.sh", "FAILED", "10"),
        ("train.sh", "CANCELLED", "0"),
        ("restart.sh", "COMPLETED", "0"),
    ]
    judged = [json.loads(line) for line in (sick.folder / "run.jsonl").read_text().splitlines()]
    first = next(one for one in judged if one["result"]["verdict"] != "go")
    lost = losses(sick.folder / "run")
    assert first["step"] < diverged(lost) <= FIRST_STEPS
    assert "above-threshold" in warnings(first)
    (answer,) = sick.folder.glob("check-*.json")
    assert {"above-threshold", "norm-far-from-first"} <= warnings(json.loads(answer.read_text()))
    assert not (sick.folder / "run" / f"step-{ALL_STEPS:06d}.pt").exists()
    assert mean([*losses(sick.folder / "run-restarted").values()][-20:]) < min(lost.values())


def test_the_other_scripts_of_the_page(cluster: Callable[..., Cluster]) -> None:
    run = SAMPLES / "mlp-2"
    others = cluster("others", RUN=str(run), MODEL="auto", BATCH=str(run / "batch.safetensors"), METRICS=".")
    others.run("sbatch breakdown.sh")
    others.submit("array.sh")
    others.run('! srun --epilog="$PWD/metrics.sh" false')
    steps = sorted(path.name for path in run.glob("step-*"))
    ended = [
        ("breakdown.sh", "COMPLETED", "0"),
        ("false", "FAILED", "1"),
        *len(steps) * [("array.sh", "COMPLETED", "0")],
    ]
    assert sorted(others.wait()) == sorted(ended)
    assert sorted(path.name for path in others.folder.glob("sharpness-*")) == [f"sharpness-{one}.json" for one in steps]
    (answer,) = others.folder.glob("breakdown-*.json")
    assert json.loads(answer.read_text())["status"] == "ok"
    assert "fromage_diag" in (others.folder / "mlp-2.prom").read_text()


def test_ranks_under_srun_give_one_answer_and_their_exit_code(cluster: Callable[..., Cluster]) -> None:
    run = SAMPLES / "mlp-2"
    ranks = cluster("ranks", RUN=str(run), MODEL="auto", BATCH=str(run / "batch.safetensors"))
    ranks.run("sbatch ranks.sh")
    ended = ranks.wait()
    assert ended == [("ranks.sh", "COMPLETED", "0")], "".join(log.read_text() for log in ranks.folder.glob("slurm-*"))
    (answer,) = ranks.folder.glob("ranks-*.json")
    alone = ranks.run(f"fromage-diag sharpness {run} --batch $BATCH --json 2> /dev/null")
    values = [json.loads(text)["result"]["eigenvalues"][0]["value"] for text in (answer.read_text(), alone)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    words = "srun -n2 fromage-diag sharpness $RUN/nothing.pt --model auto --batch $BATCH 2>&1 | grep -c ^error:"
    assert ranks.run(f"{words}; echo ${{PIPESTATUS[0]}}") == "1\n3\n"


def test_srun_ends_with_the_code_of_check(cluster: Callable[..., Cluster]) -> None:
    words = f"srun -n1 fromage-diag check {SAMPLES / 'convnet-sgd'} -q --fail-on warn > /dev/null 2>&1; echo $?"
    assert cluster("one").run(words) == "10\n"
