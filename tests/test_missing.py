import json

import pytest

from fromage_cli.errors import NumericalError, ResourceError
from fromage_cli.missing import Basis, Interrupted, Missing, Why, failed, found_of, known


def test_every_code_is_one_word_in_kebab_case():
    codes = [why.value for why in Why]
    assert len(set(codes)) == len(codes)
    assert all(code.replace("-", "").isalpha() and code == code.lower() for code in codes)
    assert json.dumps(Why.NO_MODEL) == '"no-model"'


def test_a_number_or_none():
    assert known(0.0) == 0.0 and known(Missing(Why.NO_RISE, "none was seen")) is None


def test_a_basis_is_its_text_and_knows_its_few_words():
    basis = Basis("the loss rises", "on 20 rows")
    assert (basis, basis.few) == ("the loss rises; on 20 rows", "the loss rises")
    assert Basis("none") == Basis("none").few == "none" and json.dumps(basis) == '"the loss rises; on 20 rows"'


def test_a_measurement_whole_or_in_part():
    limit = ResourceError("The time limit was reached.")
    assert found_of((1, 2)) == ((1, 2), None)
    assert found_of(Interrupted((1,), limit)) == ((1,), limit)


@pytest.mark.parametrize(("error", "code"), [(ResourceError, Why.LIMIT_REACHED), (NumericalError, Why.NOT_EVALUATED)])
def test_the_reason_of_a_failure_is_its_first_line(error, code):
    assert failed(error("It came to nothing.\nAs was said.")) == Missing(code, "It came to nothing")
