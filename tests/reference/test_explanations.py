"""Everything has an explanation in plain words, and every worked number is the number that the formula gives."""

import ast
import importlib.util
import math
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fromage_cli.diagnostics.norms.findings import CHANGE
from fromage_cli.errors import EXIT_CODES, FromageError
from fromage_cli.missing import Why
from fromage_cli.reference.explanations import CONSTANT, contents, explanations, texts
from fromage_cli.reference.fields import json_fields
from fromage_cli.theory.conversions import relative_step
from fromage_cli.theory.equilibrium import adamw_equilibrium, adamw_norm
from fromage_cli.theory.gradient_noise import jackknife_error
from fromage_cli.theory.growth import orthogonal_growth, steps_until
from fromage_cli.theory.moment_bounds import moment_bound, noise_size
from fromage_cli.theory.relative_trust import (
    GroupStep,
    implied_depth,
    lemma2_rate,
    log10_function_bound,
    loss_change_bound,
    predicted_breakdown,
    straight_step,
)
from fromage_cli.theory.schedules import Schedule
from fromage_cli.theory.spectra import condition_number, extremes
from fromage_cli.theory.stability import adam_threshold, momentum_threshold
from tests.test_words import NOBODYS_WORDS, faults

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"[a-z]+(-[a-z]+)+")
TABLES = {"_REGIMES", "_BEYOND", "_OUTCOMES", "BREAKS", "FOLDER"}
"""Tables of findings, whose codes stand in tuples beside a severity."""


def findings_of(tree: ast.Module) -> Iterator[str]:
    """The codes of all findings that a module makes: in calls, and in tables of code, severity and words."""
    for node in ast.walk(tree):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Finding", "about_names"):
            parts = [word.value for word in node.keywords if word.arg == "code"] or node.args[:1]
        elif isinstance(node, ast.Tuple) and len(node.elts) >= 3:
            severity = node.elts[1]
            if isinstance(severity, ast.Constant) and severity.value in ("info", "warn", "fail"):
                parts = node.elts[:1]
        for part in parts:
            for one in (part.body, part.orelse) if isinstance(part, ast.IfExp) else (part,):
                if isinstance(one, ast.Constant) and CODE.fullmatch(str(one.value)):
                    yield str(one.value)


def all_codes() -> set[str]:
    """Those that the source makes, and those of the study, which hold those that are put together from words."""
    made = {
        code
        for path in (ROOT / "fromage_cli").rglob("*.py")
        for code in findings_of(ast.parse(path.read_text(encoding="utf-8")))
    }
    tree = ast.parse((ROOT / "benchmarks" / "run_study_separation.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("FACTS", "VERDICTS"):
            made |= set(ast.literal_eval(node.value))
    return made | {"layer-moves-more", "layer-moves-less"}


def family(kind: type[FromageError]) -> Iterator[type[FromageError]]:
    """A class of errors and all that are derived from it in the package."""
    if kind.__module__.startswith("fromage_cli."):
        yield kind
    for each in kind.__subclasses__():
        yield from family(each)


def test_every_finding_has_an_explanation_and_what_to_do() -> None:
    assert set(texts("findings")) == all_codes()
    for code in texts("findings"):
        one = explanations()[code]
        assert one.kind == "finding"
        assert all(text and text.endswith(".") for text in (one.meaning, one.limit, one.causes, one.what_to_do)), code
        assert one.see, code


def test_every_field_term_error_and_reason_has_one() -> None:
    every = explanations()
    assert all(one.meaning.strip() for one in every.values())
    assert {one.path for one in json_fields()} <= every.keys()
    assert all(every[f"reason.{why.value}"].what_to_do for why in Why)
    assert set(texts("codes")["reason"]) == {why.value for why in Why}
    codes = {kind.code: kind.exit_code for kind in family(FromageError)}
    assert set(texts("codes")["error"]) == set(codes)
    for code, exit_code in codes.items():
        assert [one.name for one in every[f"error.{code}"].also] == [f"exit-code.{exit_code}"]
    assert [one.name for one in every["exit-codes"].also] == [f"exit-code.{code}" for code, _ in EXIT_CODES]


def test_what_is_named_is_there() -> None:
    every, paths = explanations(), [one.path for one in json_fields()]
    assert {name for one in every.values() for name in one.see} - every.keys() == set()
    lists = [topic.get(key, ()) for topic in texts("topics").values() for key in ("fields", "related")]
    patterns = [pattern for each in lists for pattern in each]
    assert [each for each in patterns if not any(fnmatchcase(path, each) for path in paths)] == []
    names = [name for group in contents().groups for name in group.names]
    assert sorted(names) == sorted(every)


def test_a_limit_is_that_of_the_source() -> None:
    assert f"factor of {CHANGE:g} on" in str(explanations()["norm-far-from-first"].limit)
    assert "above 50 % of the units" in str(explanations()["units-dead"].limit)
    left = [one.name for one in explanations().values() if one.limit and CONSTANT.search(one.limit)]
    assert left == []


def spoken(value: Any, key: str = "") -> Iterator[str]:
    """Every sentence of the texts; names, patterns, formulas and sources are none."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from spoken(inner, name)
    elif isinstance(value, str) and key not in ("formula", "source"):
        yield value


@pytest.mark.parametrize("name", ["findings", "topics", "fields", "codes"])
def test_the_texts_are_short_and_plain(name: str) -> None:
    assert [fault for text in spoken(texts(name)) for fault in faults(text, NOBODYS_WORDS)] == []


def test_a_name_is_the_word_in_letters_that_are_typed() -> None:
    for name, topic in texts("topics").items():
        assert name == re.sub(r"[^a-z0-9]+", "-", topic["word"].lower()).strip("-")


def glossary_page() -> ModuleType:
    """benchmarks/glossary_page.py as a module."""
    specification = importlib.util.spec_from_file_location("glossary_page", ROOT / "benchmarks" / "glossary_page.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_glossary_is_made_from_the_terms() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert page == glossary_page().glossary(), "python benchmarks/glossary_page.py"


def test_the_texts_are_part_of_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "reference/*.toml" in settings["tool"]["setuptools"]["package-data"]["fromage_cli"]


def cosine(first: list[float], second: list[float]) -> float:
    return float(np.dot(first, second) / (np.linalg.norm(first) * np.linalg.norm(second)))


HESSIAN, ONES, DIAGONAL = np.diag([2.0, 4.0]), np.ones(2), np.diag([3.0, 4.0])
ADAMW = adamw_equilibrium(1e-3, 0.1, (0.9, 0.999))
ADAM = adam_threshold(1e-3, 0.9)
BOUND = log10_function_bound([0.1, 0.1], 1.0, 1.0, 1.0)
COSINE = Schedule("cosine", total=100.0)
GROWTH = orthogonal_growth(0.01)
WORKED: dict[str, dict[str, float]] = {
    "norm": {"5": float(np.linalg.norm([3.0, 4.0])), "3.54": math.sqrt(12.5)},
    "spectral-norm": {"4": extremes(DIAGONAL)[0]},
    "stable-rank": {"1.56": float(np.linalg.norm(DIAGONAL)) ** 2 / extremes(DIAGONAL)[0] ** 2},
    "condition-number": {"4": condition_number(np.array([4.0, 2.0, 1.0]), 3)},
    "depth": {"6": 2 + 8 * 0.25 * 2},
    "noise-scale": {"0.707": 1.0 / math.sqrt(1.0 + 79.0 / 79.0)},
    "guessing": {"2.303": -sum(0.1 * math.log(0.1) for _ in range(10))},
    "relative-step": {"0.002": 0.01 / 5.0},
    "relative-step-per-rate": {"0.003": relative_step(1e-3, {"a": 3.0, "b": 1.0}) or 0.0},
    "weight-decay": {"0.005": 100.0 * 0.1 * 0.0005},
    "cosine": {"0.6": -cosine([3.0, 4.0], [-3.0, 0.0])},
    "breakdown": {"0.5": float(np.linalg.norm([0.0, 0.5]) / np.linalg.norm([1.0, 0.0]))},
    "deep-relative-trust": {"0.21": predicted_breakdown([0.1, 0.1])},
    "lemma-1": {"0.1": -loss_change_bound([GroupStep(2.0, 0.1, 0.8, 0.3)])},
    "lemma-2": {"0.0443": lemma2_rate(1.0, 16)},
    "from-curvature": {"0.002": 0.8 / 400.0},
    "implied-depth": {"162": implied_depth(1.0, 0.0043)},
    "regret": {"0.05": (1.825 - 1.8) / (2.3 - 1.8)},
    "sharpness": {"4": float(np.linalg.eigvalsh(HESSIAN)[-1])},
    "preconditioned": {"8": 4.0 / 0.5},
    "threshold": {"20": momentum_threshold(0.1), "38": momentum_threshold(0.1, 0.9), "38000": ADAM},
    "ratio": {"1.5": 30.0 / momentum_threshold(0.1)},
    "critical-sharpness": {"200": 2.0 / 0.01},
    "batch-sharpness": {"3": float(ONES @ HESSIAN @ ONES / (ONES @ ONES))},
    "intrinsic-learning-rate": {"0.00005": 0.1 * 0.0005, "20000": 1.0 / (0.1 * 0.0005)},
    "effective-learning-rate": {"0.004": 0.1 / 5.0**2},
    "equilibrium-norm": {"0.0707": adamw_norm(1e-3, 0.1, 1), "7.07": adamw_norm(1e-3, 0.1, 10000)},
    "relaxation-steps": {"5000": ADAMW.relaxation or 0.0},
    "rotation": {"25.2": math.degrees(math.acos(math.exp(-ADAMW.diffusion * 1000)))},
    "angle-per-step": {"0.00324": ADAMW.rotation, "0.186": math.degrees(ADAMW.rotation)},
    "schedule": {"0.5": COSINE.rate_factor(50), "0.146": COSINE.rate_factor(75)},
    "growth": {"0.00005": GROWTH, "13864": steps_until(1.0, 2.0, GROWTH) or 0.0},
    "standard-error": {"1.15": jackknife_error([1.0, 2.0, 3.0]) or 0.0},
    "moments": {"0.229": noise_size(0.9)},
    "moment-bound": {"7.27": moment_bound(0.9, 0.999, 1e9)},
    "relative-update": {"0.01": 0.001 * 0.2 / 0.02},
    "lost-to-rounding": {"0.00195": 2.0**-9},
    "decay-s-clock": {"10000": 1.0 / (0.001 * 0.1)},
    "hypergradient": {"0.005": 0.5 * 0.01},
    "relative-distance": {"0.2": float(np.linalg.norm([0.0, 1.0]) / np.linalg.norm([3.0, 4.0]))},
    "product": {"0.331": predicted_breakdown([0.1, 0.1, 0.1])},
    "function-distance": {"0.21": 10.0**BOUND, "-0.678": BOUND},
    "implied-step": {"0.00696": straight_step(1.0, 100)},
    "log-z": {"2.303": math.log(sum(math.exp(0.0) for _ in range(10)))},
}
"""Of each example the numbers that it arrives at, computed anew."""


def test_every_example_is_computed() -> None:
    assert set(WORKED) == {name for name, topic in texts("topics").items() if "example" in topic}


@pytest.mark.parametrize("name", WORKED)
def test_a_worked_number_is_right(name: str) -> None:
    """It stands in the example, in as many digits as the value has there."""
    example = texts("topics")[name]["example"].replace("−", "-")
    for text, value in WORKED[name].items():
        assert text in re.findall(r"-?\d+(?:\.\d+)?", example)
        digits = len(text.lstrip("-0.").replace(".", ""))
        assert float(f"{value:.{digits}g}") == float(text)
