from collections.abc import Callable
from dataclasses import replace

from fromage_cli.diagnostics.suggest_lr.findings import judge
from fromage_cli.diagnostics.suggest_lr.result import Estimate, Limit, Stability, SuggestedRates, VerifiedRun
from fromage_cli.missing import LIMIT_REACHED, Basis, Missing, Why
from fromage_cli.theory.rate_calibration import RELIABLE

NONE = Missing(Why.UNCERTIFIABLE, "no step was found that is certain to descend")
UPHILL = Missing(Why.UPHILL, "it never falls")
MakeResult = Callable[..., SuggestedRates]


def found(result: SuggestedRates) -> dict[str, tuple[str, str]]:
    return {finding.code: (finding.severity, finding.message) for finding in judge(result)}


def running_at(result: SuggestedRates, rate: float) -> SuggestedRates:
    ratio = rate / (result.limit.learning_rate or 1.0)
    return replace(result, optimizer=replace(result.optimizer, current_learning_rate=rate, current_ratio=ratio))


def test_a_rate_above_the_limit_is_told(make_result: MakeResult) -> None:
    (finding,) = [each for each in judge(make_result()) if each.code == "rate-above-limit"]
    assert (finding.severity, finding.layer) == ("info", None)
    assert finding.message.startswith("your rate 0.003 is 3.12 × the sure step, and one step at it raises the loss of")
    assert (round(finding.value or 0.0, 3), finding.limit) == (3.115, 1.0)


def test_a_rate_above_the_limit_is_no_fault(make_result: MakeResult) -> None:
    """Healthy runs stand above it, and above the rate from which on one step raises the loss."""
    severity, message = found(running_at(make_result(), 0.02))["rate-above-limit"]
    assert severity == "info" and message.endswith("and one step at it raises the loss")
    assert "rate-above-limit" not in found(running_at(make_result(), 0.0009))


def test_a_rate_above_the_threshold_of_stability_is_a_warning(make_result: MakeResult) -> None:
    severity, message = found(make_result(stability=Stability(0.00125, 2.4)))["rate-not-stable"]
    assert severity == "warn" and "you train at 0.003, 2.4 × the rate from which on steps" in message
    begins = Stability(0.00125, 2.4, adam_begins=True)
    for stability in (begins, Stability(0.0125, 0.24), Stability(NONE, NONE)):
        assert "rate-not-stable" not in found(make_result(stability=stability))


def test_a_gradient_that_is_not_the_losses_comes_first(make_result: MakeResult) -> None:
    first = judge(make_result(contradiction=(2.5, -10.0)))[0]
    assert (first.code, first.severity, first.value, first.limit) == ("gradient-is-not-the-losses", "warn", 2.5, -10.0)
    assert "gradient-is-not-the-losses" not in found(make_result())


def test_layers_of_nearly_zero_weights_are_named(make_result: MakeResult) -> None:
    severity, message = found(make_result(without_size=("token", "head.weight")))["layers-without-size"]
    assert severity == "info" and "2 layers with weights near zero" in message
    assert message.endswith(": token, head.weight")


def test_momentum_that_is_taken_as_built_up_is_told(make_result: MakeResult) -> None:
    result = running_at(make_result(), 0.02)
    filled = replace(result, optimizer=replace(result.optimizer, filled=True))
    message = found(filled)["rate-above-limit"][1]
    assert "one step at it raises the loss once momentum has built up" in message


def test_real_steps_that_rise_are_a_warning(make_result: MakeResult) -> None:
    run = VerifiedRun(1.0, 0.002, (1.0, 2.0), 1.0, 2.0, 0.1, False)
    severity, message = found(make_result(verification=(run,)))["verification-rises"]
    assert (severity, message) == (
        "warn", "after 2 steps at 0.002 the loss on other rows rose from 1 to 2",
    )  # fmt: skip
    lost = replace(run, end_loss=NONE)
    assert "overflowed" in found(make_result(verification=(lost,)))["verification-rises"][1]
    assert "verification-rises" not in found(make_result(verification=(replace(run, factor=3.0),)))
    assert "verification-rises" not in found(make_result(verification=(replace(run, end_loss=0.5),)))


def test_a_better_rate_beside_the_verified_one_is_told_only_where_it_is_certain(make_result: MakeResult) -> None:
    at, above = (VerifiedRun(factor, 0.002 * factor, (1.0, 0.9), 1.0, 0.8, 0.1, False) for factor in (1.0, 3.0))
    message = found(make_result(verification=(at, replace(above, best=True))))["verification-prefers-another"][1]
    assert message == "--verify disagrees: after 2 steps 0.006 ends lower than 0.002"
    for runs in ((at, above), (replace(at, best=True), above)):
        assert "verification-prefers-another" not in found(make_result(verification=runs))


def test_where_no_step_must_descend_it_is_said_why(make_result: MakeResult) -> None:
    limit = Limit(NONE, NONE, None, "uncertifiable", None, None, NONE, False)
    severity, message = found(make_result(limit=limit))["no-certain-step"]
    assert severity == "info" and "descends in every layer" in message
    rises = replace(make_result().limit, estimator="critical", criterion=None)
    assert found(make_result(limit=rises))["no-certain-step"][0] == "info"
    assert "no-certain-step" not in found(make_result())


def test_a_recommended_rate_above_the_rise_asks_for_warm_up(make_result: MakeResult) -> None:
    low = Estimate("critical", 1e-3, 1e-3, "", 0.0)
    assert "from 0.001 on" in found(make_result(estimates=(low,)))["recommended-above-critical"][1]
    assert "recommended-above-critical" not in found(make_result())


def test_noise_and_rounding_are_named(make_result: MakeResult) -> None:
    result = make_result()
    layers = (replace(result.layers[0], cosine=0.0, cosine_stderr=0.3), *result.layers[1:])
    messages = found(replace(result, layers=layers, noise=("a.bias", "b.bias"), uncertain=("c.weight",)))
    assert "beyond these 64 rows, the gradient of 1 layer is no larger than its noise" in messages["noise-dominates"][1]
    averaged = replace(result, layers=layers, limit=replace(result.limit, averaged=True))
    assert found(averaged)["noise-dominates"][1].startswith("with 64 rows, the gradient of 1 layer is no larger")
    assert "2 tensors without a gradient beyond rounding" in messages["gradient-is-rounding"][1]
    assert "only together with all vectors: c.weight" in messages["certain-together-only"][1]
    whole = replace(result, limit=replace(result.limit, criterion="sum"), uncertain=("c.weight",))
    assert (
        "together with all vectors" in found(whole)["certain-together-only"][1]
    )  # the layers have a number of their own
    alone = replace(whole, estimates=tuple(each for each in result.estimates if each.name != "measured-sum"))
    assert "together with all other tensors" in found(alone)["certain-together-only"][1]


def test_layers_without_gradient_have_their_own_reason(make_result: MakeResult) -> None:
    result = make_result(uncertain=("c.weight", "fc1.weight"), zero_gradient=("fc1.weight", "fc2.weight"))
    findings = {each.code: each for each in judge(result)}
    zero = findings["gradient-is-zero"]
    assert zero.message == "the gradient of 2 tensors is exactly 0: fc1.weight, fc2.weight"
    assert zero.hint.startswith("Usual before a head that starts at zero")
    assert findings["certain-together-only"].message.endswith("together with all vectors: c.weight")
    alone = found(replace(result, uncertain=("fc1.weight",)))
    assert "certain-together-only" not in alone and "gradient-is-zero" not in found(make_result())
    still = replace(result.layers[0], name="fc1.weight", cosine=0.0, cosine_stderr=0.1)
    assert "noise-dominates" not in found(replace(result, layers=(still,)))


def test_a_step_that_goes_uphill_beyond_its_error_is_not_put_down_to_noise(make_result: MakeResult) -> None:
    limit = Limit(NONE, NONE, None, "uncertifiable", None, None, NONE, False)
    for error, uphill in ((0.05, True), (0.5, False)):
        layers = tuple(replace(layer, cosine=-0.72, cosine_stderr=error) for layer in make_result().layers)
        findings = {each.code: each for each in judge(make_result(layers=layers, limit=limit))}
        assert ("Noise may hide" in findings["no-certain-step"].hint) != uphill
        assert ("noise-dominates" in findings) != uphill and ("step-uphill" in findings) == uphill
    noisy = replace(layers[0], cosine=0.0)
    mixed = found(make_result(layers=(noisy, replace(layers[1], cosine_stderr=0.05), *layers[2:])))
    assert "of 1 layer goes uphill" in mixed["step-uphill"][1] and noisy.name in mixed["noise-dominates"][1]


def test_a_rate_that_is_not_known_well_says_so_and_what_to_do(make_result: MakeResult) -> None:
    result = make_result()
    assert "rate-not-measured" not in found(result)
    vague = replace(
        result.recommended, reliable=False, regret=0.12, low=0.0004, high=0.0064, reason="the runs tell it too poorly"
    )
    (finding,) = [each for each in judge(replace(result, recommended=vague)) if each.code == "rate-not-measured"]
    assert (finding.severity, finding.value, finding.limit) == ("info", 0.12, RELIABLE)
    assert finding.message == "the rate to train at is a guess: the runs tell it too poorly"
    middle = f"{result.recommended.learning_rate:.2g}"
    assert finding.hint is not None and f"Try 0.0004, {middle} and 0.0064" in finding.hint
    without = replace(vague, learning_rate=NONE, regret=NONE)
    (finding,) = [each for each in judge(replace(result, recommended=without)) if each.code == "rate-not-measured"]
    assert finding.hint is not None and "Try 0.0004, 0.0016 and 0.0064" in finding.hint
    none = replace(vague, learning_rate=NONE, low=NONE, high=NONE, regret=NONE)
    (finding,) = [each for each in judge(replace(result, recommended=none)) if each.code == "rate-not-measured"]
    assert finding.value is None and finding.hint is not None and "--probe-budget" in finding.hint
    early = replace(none, learning_rate=LIMIT_REACHED)
    (finding,) = [each for each in judge(replace(result, recommended=early)) if each.code == "rate-not-measured"]
    assert finding.hint is not None and "without Ctrl-C" in finding.hint and "--probe-budget" not in finding.hint
    unknown = replace(result.optimizer, name=None)
    assert "rate-not-measured" not in found(replace(result, recommended=none, optimizer=unknown))


def test_a_rate_that_nobody_asked_for_is_no_finding(make_result: MakeResult) -> None:
    result, none = make_result(probe=()), Missing(Why.NOT_ASKED, "no short runs were asked for")
    told = replace(result.recommended, learning_rate=none, low=none, high=none, regret=none, reliable=False)
    assert "rate-not-measured" not in found(replace(result, recommended=told))


def test_a_step_that_lowers_the_loss_of_its_own_rows_only_says_so(make_result: MakeResult) -> None:
    uphill = Estimate("critical-independent", UPHILL, UPHILL, Basis("it never falls"), 3.0)
    assert (
        "the numbers hold for this batch alone"
        in found(make_result(estimates=(uphill,)))["descends-on-own-rows-only"][1]
    )
    assert "descends-on-own-rows-only" not in found(make_result())
