"""The page as text: whole HTML, no request, nothing that acts from a name."""

import re
from collections.abc import Callable
from typing import Any

import html5lib
import pytest

from fromage_cli.report.gathered import Gathered
from fromage_cli.report.page import html_page, summary_of, title_of

Make = Callable[..., Any]
HINT = "Look at it."
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[31m\u202e{{ 7 * 7 }}"


def strictly_parsed(page: str) -> Any:
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def finding(code: str, severity: str, layer: str | None = None, message: str = "is odd") -> dict[str, Any]:
    return {"code": code, "severity": severity, "message": message, "layer": layer, "hint": HINT}


def test_a_page_is_whole_html_without_requests(many: list[Any]) -> None:
    page = html_page(many)
    tree = strictly_parsed(page)
    assert tree.attrib["lang"] == "en"
    links = [
        each.attrib.get(name, "") for each in tree.iter() for name in ("src", "href", "action") if name in each.attrib
    ]
    assert [each for each in links if not each.startswith(("#", "data:"))] == []
    assert "url(" not in page and "@import" not in page and "http" not in re.sub(r'http-equiv|base64,[^"]*', "", page)
    assert not [each for each in tree.iter() if any(name.startswith("on") or name == "style" for name in each.attrib)]


def test_a_hundred_layers_at_twenty_checkpoints_fit_into_300_kilobytes(many: list[Any]) -> None:
    assert len(html_page(many).encode()) < 300_000


def test_names_that_are_html_are_words(make: Make, make_breakdown: Make) -> None:
    told = make_breakdown(1, name=HOSTILE)
    told["findings"] = [finding(HOSTILE, "warn", HOSTILE, HOSTILE)]
    told["checkpoints"][0]["path"] = HOSTILE
    page = html_page([told, make_breakdown(2, name=HOSTILE), make(HOSTILE, {"layers": [{"name": HOSTILE}]})])
    tree = strictly_parsed(page)
    assert len([*tree.iter("script")]) == 1 and not [*tree.iter("img")]
    assert "\x1b" not in page and "\u202e" not in page and "{{ 7 * 7 }}" in page


def test_the_policy_allows_the_own_style_and_script_alone(make: Make) -> None:
    page = html_page([make("state", {})])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; style-src &#39;sha256-") and "unsafe" not in policy[1]


@pytest.mark.parametrize(
    ("verdict", "severity", "words", "kind"),
    [
        ("go", "info", "Go on: 2 commands found nothing wrong.", "go"),
        ("stop", "fail", "w: is odd.", "stop"),
        ("unknown", "warn", "Look at this: w: is odd.", "look"),
        ("go", "fail", "Stop: w: is odd.", "stop"),
        ("unknown", "info", "Nothing wrong in 1 answer: check.", "go"),
    ],
)
def test_the_verdict_comes_first(make: Make, verdict: str, severity: str, words: str, kind: str) -> None:
    told = make("check", {"verdict": verdict, "looked": ["state", "norms"]}, findings=[finding("odd", severity, "w")])
    found = summary_of(Gathered([told]))
    assert words in found.verdict and found.kind == kind
    assert found.remedy == ("Train on." if severity == "info" else HINT)
    page = html_page([told])
    assert page.index(f'<h1 class="{kind}">') < page.index("<h2")


def test_what_was_not_seen_is_said(make: Make) -> None:
    skipped = [{"command": name, "reason": "No network is given."} for name in ("breakdown", "sharpness")]
    told = make("check", {"verdict": "go", "looked": ["inspect"], "skipped": skipped})
    assert summary_of(Gathered([told])).unseen == ("Not looked: breakdown, sharpness. No network is given.",)
    cut = {**told, "status": "error", "error": {"code": "resource", "message": "The time limit was reached."}}
    found = summary_of(Gathered([cut]))
    assert found.remedy == "" and found.unseen[0] == "check ended early: The time limit was reached."
    assert found.unseen[0] in html_page([cut])


def test_saved_answers_have_a_verdict_too(make: Make) -> None:
    answers = [make("norms", {}, 1), make("norms", {}, 2), make("sharpness", {})]
    found = summary_of(Gathered(answers))
    assert (found.verdict, found.remedy) == ("Nothing wrong in 3 answers: norms, sharpness.", "Train on.")
    cut = {"code": "resource", "message": "The memory limit was exceeded.", "hint": "Raise it."}
    found = summary_of(Gathered([*answers, make("state", {}, error=cut)]))
    assert found.remedy == "Raise it." and found.unseen == ("state ended early: The memory limit was exceeded.",)
    found = summary_of(Gathered([*answers, make("state", {}, findings=[finding("odd", "fail")])]))
    assert (found.verdict, found.kind, found.remedy) == ("Stop: is odd.", "stop", HINT)


def test_an_error_alone_is_no_answer(make: Make) -> None:
    error = {"code": "input", "message": "'nosuch' does not exist.", "hint": "Available: 'run'."}
    told = {**make("norms", {}), "checkpoints": [], "result": None, "error": error}
    found = summary_of(Gathered([told]))
    assert found.verdict == "No answer: norms could not run. 'nosuch' does not exist."
    assert (found.kind, found.remedy, found.unseen) == ("look", "Available: 'run'.", ())
    page = html_page([told])
    assert "<title>no answer · fromage-diag</title>" in page and "ended early" not in page
    beside = summary_of(Gathered([told, make("state", {})]))
    assert beside.verdict == "Nothing wrong in 1 answer: state." and beside.remedy == "Available: 'run'."
    assert beside.unseen == ("norms could not run: 'nosuch' does not exist.",)


def test_a_run_that_time_cut_short_has_no_verdict(make: Make) -> None:
    def skipped(*names: str) -> list[dict[str, Any]]:
        return [{"command": name, "reason": "It takes long.", "limited": True} for name in names]

    told = {"verdict": "go", "looked": ["inspect"], "skipped": skipped("norms", "breakdown")}
    found = summary_of(Gathered([make("check", told)]))
    assert (found.verdict, found.kind) == ("No verdict: 2 of 3 commands did not look.", "look")
    assert found.remedy.startswith("Give more time: ")
    most = {"verdict": "go", "looked": ["inspect", "norms", "state"], "skipped": skipped("breakdown")}
    found = summary_of(Gathered([make("check", most)]))
    assert found.verdict == "Go on: 3 commands found nothing wrong." and found.remedy.startswith("Give more time: ")
    grave = summary_of(Gathered([make("check", {**told, "verdict": "stop"}, findings=[finding("odd", "fail")])]))
    assert grave.verdict == "Stop: is odd." and grave.remedy == HINT


def test_answers_about_several_runs_say_so(make: Make) -> None:
    other = make("norms", {})
    other["checkpoints"][0]["path"] = "second/step-100"
    assert summary_of(Gathered([make("norms", {}), other])).unseen == (
        "These answers are about several runs: run, second.",
        "Sections show second where it has answers.",
    )


def test_findings_of_one_kind_stand_together(make: Make) -> None:
    told = make("state", {}, findings=[finding("odd", "warn", f"layer {place}") for place in range(250)])
    page = html_page([told])
    assert page.count("Look at it.") == 2 and "197 more of this kind" in page, "once above, once for the whole"
    assert "50 more findings are in the saved numbers." in page


def test_a_finding_is_explained(make: Make) -> None:
    page = html_page([make("check", {}, findings=[finding("units-dead", "warn")])])
    for words in (
        "Most units of a layer are 0",
        "Usual causes: A step that was too large",
        "fromage-diag explain units-dead",
    ):
        assert words in page
    assert "<summary>What it means" not in html_page([make("check", {}, findings=[finding("odd", "warn")])])


def test_a_page_is_called_by_its_run(make: Make) -> None:
    assert title_of(Gathered([make("state", {})])) == "run/step-100"
    assert title_of(Gathered([{**make("state", {}), "checkpoints": []}])) == "a network"
