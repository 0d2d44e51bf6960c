"""Coverage-guided fuzzing of every reader: `python tests/fuzz/readers.py TARGET [CORPUS] [-max_total_time=60]`.

Needs the extra `fuzz`. libFuzzer adds its own limits on time and memory. It begins from the seeds in `targets.py` and
from the inputs in `corpus/TARGET.zip`; what it finds beyond them is kept in CORPUS, where named.
"""

import os
import sys
import tempfile
import zipfile
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed: python -m pip install -c constraints.txt -e '.[fuzz]'")

with atheris.instrument_imports(include=["fromage_cli"]):
    from targets import TARGETS, neighbours, reader


def main() -> None:
    """Fuzz the target named first; all other arguments are libFuzzer's."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: readers.py {'|'.join(TARGETS)} [CORPUS] [libFuzzer's options]")
    target = sys.argv.pop(1)
    name, wrapped, seeds = TARGETS[target]
    directory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    with zipfile.ZipFile(Path(__file__).with_name("corpus") / f"{target}.zip") as kept:
        kept.extractall(directory / "seeds")
    for index, seed in enumerate(seeds()):
        (directory / "seeds" / f"seed-{index}").write_bytes(seed)
    options = [option for option in sys.argv[1:] if option.startswith("-")]
    corpora = [str(Path(argument).absolute()) for argument in sys.argv[1:] if not argument.startswith("-")]
    os.chdir(directory)
    neighbours(directory)
    limits = ["-timeout=5", "-rss_limit_mb=2000", "-max_len=20000", f"-artifact_prefix={directory}/"]
    atheris.Setup(
        [sys.argv[0], *corpora, str(directory / "seeds"), *limits, *options], reader(directory / name, wrapped)
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
