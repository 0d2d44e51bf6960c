"""The house rules that no linter states: STYLE.md names them, these tests hold the tree to them."""

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fromage_cli.cli import build_program
from fromage_cli.diagnostics import COMMANDS
from fromage_cli.optimizers.rule import RULES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fromage_cli"
TESTS = ROOT / "tests"
FOLDERS = sorted(path for path in (PACKAGE / "diagnostics").iterdir() if (path / "__init__.py").exists())
MODULES = sorted(PACKAGE.rglob("*.py"))

FILES_OF_A_DIAGNOSTIC = ("__init__.py", "result.py", "measure.py", "findings.py", "render.py", "command.py")
LIGHT = (
    *("checkpoints", "cli", "errors", "findings", "intake", "optimizers", "stopping", "terminal", "theory"),
    *("api", "reference", "watching"),
)
"""Modules and packages that start without torch and numpy, and so does every diagnostic's `command`."""
WITHOUT_A_SOURCE = {
    "test_distribution.py",
    "test_documents.py",
    "test_forked_ranks.py",
    "test_house.py",
    "test_simulated_ranks.py",
    "test_many_ranks.py",
    "test_samples.py",
    "test_words.py",
    "bundle/test_every_command.py",
    "report/test_browser.py",
    "report/test_lighthouse.py",
    "bundle/test_kept_bundle.py",
    "bundle/test_saving_on_ranks.py",
    "checkpoints/test_formats.py",
    "checkpoints/test_import_cost.py",
    "diagnostics/breakdown/test_edges.py",
    "diagnostics/state/test_study.py",
    "diagnostics/test_screens.py",
    "diagnostics/breakdown/test_networks.py",
    "diagnostics/state/test_masters.py",
    "fuzz/test_targets.py",
    "problem/evaluation/test_rows_of_ranks.py",
    "watching/test_cluster_day.py",
    "hostile/test_amplification.py",
    "hostile/test_changing_networks.py",
    "hostile/test_configurations.py",
    "hostile/test_imports.py",
    "hostile/test_nothing_unjudged_is_clean.py",
    "hostile/test_payloads.py",
    "hostile/test_places.py",
    "hostile/test_products.py",
    "hostile/test_runaway.py",
    "hostile/test_shared_and_colliding.py",
    "hostile/test_structure.py",
}
"""Tests of the tree, what is published, the samples, a cost that no single module has, networks of every kind, hostile
or fuzzed files, job scripts."""
COMPARE_FOREIGN_WORDS = {
    "problem/networks/models.py": "forms of --model in a message, of which some are left out",
    "problem/user_code/named_code.py": "torch's own message where an allocation fails",
    "probes/structure/function_distance.py": "the first clause of another error's message goes into this one's",
}
"""Files that look into a sentence, and into which one; rooms that read text for a living are left out of the rule."""
READ_TEXT = ("checkpoints/formats", "terminal")
CUTTING = (
    "startswith",
    "endswith",
    "partition",
    "rpartition",
    "split",
    "removeprefix",
    "removesuffix",
    "find",
    "index",
)
TESTED_ELSEWHERE = {
    "own_commands.py": "test_cli.py",
    "bundle/contents.py": "bundle/test_command.py",
    "bundle/findings.py": "bundle/test_command.py",
    "bundle/outputs_loss.py": "bundle/test_saving.py",
    "doctor/result.py": "doctor/test_render.py",
    "bundle/shared_weights.py": "bundle/test_saving_on_ranks.py",
    "bundle/render.py": "bundle/test_command.py",
    "report/parts.py": "report/test_sections.py",
    "report/rate_sections.py": "report/test_sections.py",
    "report/gradient_section.py": "report/test_sections.py",
    "report/norm_section.py": "report/test_sections.py",
    "report/run_maps.py": "report/test_sections.py",
    "report/table_sections.py": "report/test_sections.py",
    "problem/graphs/encoding.py": "problem/graphs/test_exporting.py",
    "problem/graphs/graph_writing.py": "problem/graphs/test_exporting.py",
    "problem/graphs/module_calls.py": "problem/graphs/test_exporting.py",
    "diagnostics/state/discontinuities.py": "diagnostics/state/test_continuity.py",
    "diagnostics/state/words.py": "diagnostics/state/test_findings.py",
    "theory/random_draws.py": "probes/lines/test_draws.py",
    "checkpoints/formats/distributed_metadata.py": "checkpoints/formats/test_distributed.py",
    "checkpoints/formats/torch_archive.py": "checkpoints/formats/test_torch_file.py",
    "checkpoints/formats/torch_legacy.py": "checkpoints/formats/test_torch_file.py",
    "checkpoints/formats/zero_files.py": "checkpoints/formats/test_deepspeed.py",
    "checkpoints/formats/zip_directory.py": "checkpoints/formats/test_zip_container.py",
    "checkpoints/names/library_files.py": "checkpoints/formats/test_content.py",
    "checkpoints/nested/candidates.py": "checkpoints/nested/test_choosing.py",
    "checkpoints/opening.py": "checkpoints/test_formats.py",
    "checkpoints/pickles/calls.py": "checkpoints/pickles/test_unpickling.py",
    "checkpoints/pickles/constructors.py": "checkpoints/pickles/test_unpickling.py",
    "checkpoints/pickles/literals.py": "checkpoints/pickles/test_unpickling.py",
    "checkpoints/pickles/machine.py": "checkpoints/pickles/test_unpickling.py",
    "checkpoints/pickles/numpy_pickles.py": "checkpoints/formats/test_torch_file.py",
    "checkpoints/pickles/opcodes.py": "checkpoints/pickles/test_unpickling.py",
    "checkpoints/pickles/pickle_stream.py": "checkpoints/pickles/test_unpickling.py",
    "checkpoints/pickles/placeholders.py": "checkpoints/pickles/test_unpickling.py",
    "diagnostics/hypergrad/answers.py": "diagnostics/hypergrad/test_command.py",
    "diagnostics/hypergrad/cost.py": "diagnostics/hypergrad/test_command.py",
    "diagnostics/hypergrad/measure.py": "diagnostics/hypergrad/test_command.py",
    "diagnostics/hypergrad/validation_rows.py": "diagnostics/hypergrad/test_command.py",
    "diagnostics/inspect/logs.py": "diagnostics/inspect/test_command.py",
    "diagnostics/breakdown/tables.py": "diagnostics/breakdown/test_render.py",
    "diagnostics/intrinsic_lr/details.py": "diagnostics/intrinsic_lr/test_render.py",
    "diagnostics/intrinsic_lr/forecast.py": "diagnostics/intrinsic_lr/test_command.py",
    "diagnostics/intrinsic_lr/formulas.py": "diagnostics/intrinsic_lr/test_prediction.py",
    "diagnostics/intrinsic_lr/layer.py": "diagnostics/intrinsic_lr/test_measure.py",
    "diagnostics/intrinsic_lr/measuring.py": "diagnostics/intrinsic_lr/test_measure.py",
    "diagnostics/intrinsic_lr/path.py": "diagnostics/intrinsic_lr/test_command.py",
    "diagnostics/intrinsic_lr/subject.py": "diagnostics/intrinsic_lr/test_prediction.py",
    "diagnostics/intrinsic_lr/tables.py": "diagnostics/intrinsic_lr/test_render.py",
    "diagnostics/norms/details.py": "diagnostics/norms/test_render.py",
    "diagnostics/norms/growing.py": "diagnostics/norms/test_render.py",
    "diagnostics/norms/tables.py": "diagnostics/norms/test_render.py",
    "diagnostics/sharpness/options.py": "diagnostics/sharpness/test_command.py",
    "diagnostics/sharpness/partial_measurement.py": "diagnostics/sharpness/test_measure.py",
    "diagnostics/sharpness/update.py": "diagnostics/sharpness/test_measure.py",
    "diagnostics/sharpness/verdict.py": "diagnostics/sharpness/test_measure.py",
    "diagnostics/state/digits.py": "diagnostics/state/test_masters.py",
    "diagnostics/state/subjects.py": "diagnostics/state/test_measure.py",
    "diagnostics/state/sums.py": "diagnostics/state/test_measure.py",
    "diagnostics/suggest_lr/alternatives.py": "diagnostics/suggest_lr/test_measure.py",
    "diagnostics/suggest_lr/notes.py": "diagnostics/suggest_lr/test_measure.py",
    "diagnostics/suggest_lr/options.py": "diagnostics/suggest_lr/test_command.py",
    "findings.py": "terminal/test_tables.py",
    "optim/fromage.py": "optim/test_tensorwise.py",
    "optimizers/rule.py": "optimizers/test_settings.py",
    "probes/optimizer_step/moments.py": "probes/lines/test_updates.py",
    "probes/optimizer_step/step_direction.py": "probes/lines/test_crossing.py",
    "probes/optimizer_step/step_noise.py": "probes/optimizer_step/test_next_update.py",
    "probes/hypergradients/conditioning.py": "probes/hypergradients/test_delta_stn.py",
    "probes/hypergradients/training_steps.py": "probes/hypergradients/test_unrolled.py",
    "stopping.py": "hostile/test_runaway.py",
    "terminal/command.py": "terminal/test_options.py",
    "terminal/envelope.py": "terminal/test_show.py",
    "terminal/flags.py": "terminal/test_configuration.py",
    "terminal/pictures.py": "diagnostics/breakdown/test_plot.py",
    "terminal/progress.py": "terminal/test_streams.py",
}
"""Parts of something larger, with the tests that hold them to their numbers and refusals as parts of it."""
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
OTHER_PROGRAMS_FLAGS = {"--ckpt-format"}
"""Megatron's."""
VAGUE = {"utils", "helpers", "common", "manager"}
PRINTING = re.compile(r"^(rich\.)?print$|\bstd(out|err)\b.*\.write|\bs?echo$|[cC]onsole(\(.*\))?\.print$|\bConsole$")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """First components of all imports, those inside functions too."""
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


def printing(tree: ast.Module) -> list[str]:
    """Calls that write to a stream of the process; handing a stream on is none."""
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if PRINTING.search(call)]


def is_sentence(node: ast.expr) -> bool:
    """A text of several words, or a group that holds one."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(map(is_sentence, node.elts))
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip()


def compared_sentences(tree: ast.Module) -> list[str]:
    """Comparisons with sentences, by themselves or by a constant's name, and cuts through one at its punctuation."""
    named = {
        node.targets[0].id
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and is_sentence(node.value)
    }

    def is_words(node: ast.expr) -> bool:
        return is_sentence(node) or (isinstance(node, ast.Name) and node.id in named)

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            equal = any(isinstance(each, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for each in node.ops)
            if equal and any(map(is_words, (node.left, *node.comparators))):
                found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CUTTING:
            marks = [each.value for each in node.args if isinstance(each, ast.Constant)]
            if any(map(is_words, node.args)) or {";", "; ", ". ", ": "} & {*marks}:
                found.append(ast.unparse(node))
    return found


def offenders(paths: Iterable[Path], fault: Callable[[ast.Module], object]) -> dict[str, object]:
    """By file, what is wrong with it."""
    found = {name_of(path): fault(parsed(path)) for path in paths}
    return {name: what for name, what in found.items() if what}


def test_imports_of_light_modules_leave_torch_and_numpy_alone() -> None:
    light = [PACKAGE / f"{name}.py" for name in LIGHT if (PACKAGE / f"{name}.py").exists()]
    light += [path for name in LIGHT for path in sorted((PACKAGE / name).rglob("*.py"))]
    light += [folder / "command.py" for folder in FOLDERS]
    code = f"""
import importlib, sys
for name in {[dotted(path) for path in light]!r}:
    importlib.import_module(name)
    heavy = {{"torch", "numpy"}} & set(sys.modules)
    assert not heavy, f"{{name}} imports {{heavy}}"
"""
    assert len(light) > len(LIGHT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_imports_click() -> None:
    assert offenders(MODULES, lambda tree: {"click"} & imported(tree)) == {}


def test_only_the_terminal_and_the_program_print() -> None:
    silent = [path for path in MODULES if path != PACKAGE / "cli.py" and PACKAGE / "terminal" not in path.parents]
    assert offenders(silent, printing) == {}


@pytest.mark.parametrize(
    "line",
    [
        "print(1)",
        "sys.stdout.write(text)",
        "sys.stderr.buffer.write(text)",
        "console.print(table)",
        "Console(stderr=True).print(table)",
        "typer.echo(text)",
    ],
)
def test_printing_is_recognised(line: str) -> None:
    assert printing(ast.parse(line))


def test_every_command_has_a_folder_and_every_folder_a_command() -> None:
    assert sorted(name.replace("-", "_") for name in COMMANDS) == [folder.name for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_diagnostic_has_its_six_files(folder: Path) -> None:
    assert set(FILES_OF_A_DIAGNOSTIC) <= {path.name for path in folder.iterdir()}
    question = ast.get_docstring(parsed(folder / "__init__.py"))
    assert question is not None and question.splitlines()[0].endswith("?")


def test_results_findings_and_pages_never_see_a_tensor() -> None:
    plain = [folder / file for folder in FOLDERS for file in ("result.py", "findings.py", "render.py")]
    assert offenders(plain, lambda tree: {"torch", "numpy"} & imported(tree)) == {}


def test_a_test_stands_where_its_source_stands() -> None:
    tests = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    sources = {path.relative_to(PACKAGE).with_name(f"test_{path.name}").as_posix() for path in MODULES}
    assert sorted(tests - sources) == sorted(WITHOUT_A_SOURCE)


def test_the_fast_tests_cover_every_room() -> None:
    fast = (TESTS / "fast.txt").read_text(encoding="utf-8").split()
    assert [name for name in fast if not (ROOT / name).is_file()] == []
    rooms = {path.parent.relative_to(PACKAGE) for path in MODULES if path.stem != "__init__"}
    assert rooms - {Path(name).relative_to("tests").parent for name in fast} == set()


def test_a_source_has_its_test_or_says_where_it_is_tested() -> None:
    """What a folder is called and what a result holds has no behaviour of its own."""
    named = {path.relative_to(PACKAGE) for path in MODULES if path.stem not in ("__init__", "__main__")}
    sources = {path.as_posix() for path in named if (path.parts[0], path.stem) != ("diagnostics", "result")}
    mirrored = {name for name in sources if (TESTS / name).with_name(f"test_{Path(name).name}").is_file()}
    assert sorted(sources - mirrored - set(TESTED_ELSEWHERE)) == []
    assert sorted(set(TESTED_ELSEWHERE) - sources) == []
    assert [name for name in TESTED_ELSEWHERE.values() if not (TESTS / name).is_file()] == []


def test_every_module_says_what_it_is() -> None:
    assert offenders(MODULES, lambda tree: not ast.get_docstring(tree)) == {}
    assert [name_of(path) for path in MODULES if path.stem in VAGUE] == []


def test_only_the_room_of_optimizers_names_them() -> None:
    """Elsewhere an optimizer is known by its record, so that adding one is one record."""

    def names(tree: ast.Module) -> set[str]:
        return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in set(RULES)}

    outside = [path for path in MODULES if "optimizers" not in path.relative_to(PACKAGE).parts[:1]]
    assert offenders(outside, names) == {}
    assert names(parsed(PACKAGE / "optimizers" / "rule.py")) == set(RULES)


def test_no_verdict_depends_on_the_words_of_a_sentence() -> None:
    rooms = [PACKAGE / room for room in READ_TEXT]
    others = [path for path in MODULES if not any(room in path.parents for room in rooms)]
    found = offenders(others, compared_sentences)
    assert found.keys() == {f"fromage_cli/{name}" for name in COMPARE_FOREIGN_WORDS}, found


@pytest.mark.parametrize(
    "line",
    [
        'if reason.startswith("it never falls"): ...',
        'LIMIT = "a limit was reached"\nif reason == LIMIT: ...',
        'if reason in ("zero weights", "zero gradient"): ...',
        'if "not covered" in reason: ...',
        'reason.partition(";")[0]',
    ],
)
def test_a_compared_sentence_is_recognised(line: str) -> None:
    assert compared_sentences(ast.parse(line))
    assert not compared_sentences(ast.parse('if reason.code == Why.UPHILL or kind == "adam": ...'))


def test_nothing_is_left_undone() -> None:
    undone = re.compile(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError")
    assert [name_of(path) for path in MODULES if undone.search(path.read_text(encoding="utf-8"))] == []


def test_the_tree_of_the_style_guide_is_the_tree() -> None:
    drawn = (ROOT / "STYLE.md").read_text(encoding="utf-8").split("```")[1]
    named = set(re.findall(r"\b[a-z_]+(?:\.py\b|/)", drawn))
    files, folders = {path.name for path in MODULES}, {f"{path.parent.name}/" for path in MODULES}
    assert sorted(named - files - folders) == []
    rooms = {path.name for path in PACKAGE.glob("[a-z]*.py")} | {f"{path.parent.name}/" for path in MODULES}
    assert sorted(rooms - named - {f"{folder.name}/" for folder in FOLDERS}) == []  # these are named in COMMANDS


def sentences(tree: ast.Module) -> list[str]:
    """All texts of a module except its docstrings."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in bare]
    return [node.value for node in constants if isinstance(node.value, str)]


def test_a_flag_that_is_named_exists() -> None:
    """For the command that names it, or in a room that commands share for one of them at least."""
    program: Any = build_program()
    commands = {name.replace("-", "_"): program.command(name) for name in program.commands}
    flags = {
        name: {"--help"}.union(*([*option.opts, *option.secondary_opts] for option in command.params))
        for name, command in commands.items()
    }
    every = {"--version"}.union(*flags.values())
    for path in MODULES:
        known = flags[path.parent.name] if path.parent in FOLDERS else every
        named = {flag for text in sentences(parsed(path)) for flag in FLAG.findall(text)}
        assert named - known - OTHER_PROGRAMS_FLAGS == set(), name_of(path)


def test_few_helpers_have_one_caller() -> None:
    """A helper with one caller needs a name that says more than its body; of those there are few.

    Counted are private functions that their module names once, over all functions. httpx has 5 %, curvlinops 17 %.
    """
    functions, single = 0, 0
    for path in MODULES:
        nodes = list(ast.walk(parsed(path)))
        names = Counter(node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
        names += Counter(node.attr for node in nodes if isinstance(node, ast.Attribute))
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions += 1
                single += node.name.startswith("_") and not node.name.startswith("__") and names[node.name] == 1
    assert single / functions < 0.15


CODE = re.compile(r"[a-z]+(-[a-z]+)+")


def told(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Every code that a call or a tuple names beside severities above `info`, with each of them."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call | ast.Tuple):
            continue
        parts = node.elts if isinstance(node, ast.Tuple) else [*node.args, *(word.value for word in node.keywords)]
        parts += [branch for part in parts if isinstance(part, ast.IfExp) for branch in (part.body, part.orelse)]
        words = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        yield from (
            (code, word) for code in words if CODE.fullmatch(code) for word in words if word in ("warn", "fail")
        )


def test_the_study_of_runs_has_every_finding_that_warns_and_its_severity() -> None:
    tree = parsed(ROOT / "benchmarks" / "run_study_separation.py")
    tables = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("FACTS", "VERDICTS")
    ]
    assert len(tables) == 2
    listed = {(code, word) for table in tables for code, words in table.items() for word in words.split(", ")}
    found = {pair for path in MODULES for pair in told(parsed(path))}
    assert found == {(code, word) for code, word in listed if word != "info"}
