import math

from fromage_cli.diagnostics.inspect.findings import judge
from fromage_cli.diagnostics.inspect.result import NOT_READ


def test_nothing_to_say(make_result):
    assert judge(make_result()) == ()


def test_what_is_not_finite_is_a_failure(make_result, make_tensor):
    broken = make_tensor("b", nonfinite=3, nan=1, norm=math.nan)
    (finding,) = judge(make_result(tensors=(make_tensor(), broken)))
    assert (finding.code, finding.severity, finding.layer, finding.value) == ("tensor-not-finite", "fail", "b", 3.0)
    assert finding.message == "1 NaN and 2 infinite of its 4096 entries"
    (infinite,) = judge(make_result(tensors=(make_tensor("b", nonfinite=3),)))
    assert infinite.message == "3 infinite of its 4096 entries"


def test_matrices_of_zeros(make_result, make_tensor):
    zeros = [make_tensor(f"w{index}", zeros=4096) for index in range(4)]
    (finding,) = judge(make_result(tensors=(*zeros, make_tensor("bias", shape=(4096,), zeros=4096))))
    assert (finding.code, finding.severity, finding.value, finding.layer) == ("tensor-all-zero", "info", 4.0, None)
    assert "4 matrices" in finding.message and "w0, w1, w2 …" in finding.message
    assert judge(make_result(tensors=(zeros[0],)))[0].layer == "w0"


def test_equal_bytes(make_result):
    (finding,) = judge(make_result(duplicates=(("a", "b"),)))
    assert (finding.code, finding.message) == ("tensors-equal", "2 tensors hold the same bytes: a, b")


def test_headers_alone_say_nothing(make_result, make_tensor):
    unread = make_tensor(norm=NOT_READ, nonfinite=NOT_READ, nan=NOT_READ, zeros=NOT_READ)
    assert judge(make_result(tensors=(unread,), duplicates=NOT_READ)) == ()
