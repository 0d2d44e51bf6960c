"""Whether what was built holds what it should: the wheel the package alone, the sdist all that the tests need.

python -m build && python distribution/check_built.py dist
"""

import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "fromage_cli/"
NEEDED = ("fromage_cli/py.typed", "share/man/man1/fromage-diag.1", "licenses/LICENSE", "entry_points.txt")
"""Endings of names in the wheel."""
OF_THE_CHECKOUT = (".git", ".github/", ".gitignore")
BUILT = ("dist/", "build/", "fromage_diag.egg-info/")


def wheel_faults(wheel: Iterable[str], tree: Iterable[str]) -> list[str]:
    """What a wheel of this tree lacks, and what does not belong in it; both by names with slashes."""
    names = set(wheel)
    lacking = {name for name in tree if name.startswith(PACKAGE)} - names
    lacking |= {ending for ending in NEEDED if not any(name.endswith(ending) for name in names)}
    own = (PACKAGE, "fromage_diag-")
    foreign = {name for name in names if not name.startswith(own) or name.endswith(".pyc")}
    return [
        *(f"the wheel lacks {name}" for name in sorted(lacking)),
        *(f"the wheel has {name}" for name in sorted(foreign)),
    ]


def sdist_faults(sdist: Iterable[str], tree: Iterable[str]) -> list[str]:
    """What a source distribution of this tree lacks; its names begin with the directory that it unpacks to."""
    names = {name.partition("/")[2] for name in sdist}
    return [f"the sdist lacks {name}" for name in sorted(set(tree) - names) if not name.startswith(OF_THE_CHECKOUT)]


def files_of(root: Path) -> list[str]:
    """The files of a tree without what was built or compiled there."""
    names = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return [name for name in names if not name.startswith(BUILT) and "__pycache__/" not in name]


def main(directory: Path) -> int:
    """Look into the one wheel and the one sdist of a directory; the exit code."""
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    tree = files_of(ROOT)
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as source:
        found = wheel_faults(archive.namelist(), tree) + sdist_faults(source.getnames(), tree)
    sys.stdout.writelines(f"{fault}\n" for fault in found)
    sys.stdout.write("" if found else "Wheel and sdist hold what they should.\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
