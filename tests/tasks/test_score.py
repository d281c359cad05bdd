"""Scorers and the interval."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.calls import ToolCall
from greenagent.core.errors import InputError
from greenagent.core.interface import Message
from greenagent.tasks import Example
from greenagent.tasks.records import AcceptedCall
from greenagent.tasks.score import accepted_calls, exact_call, is_right, label, name, scorer, wilson_interval


def call(tool: str = "f", **arguments: object) -> ToolCall:
    return ToolCall(name=tool, arguments=arguments)


@pytest.mark.parametrize(
    ("expected", "answered", "right"),
    [
        ([], [], True),
        ([], [call()], False),
        ([call()], [], False),
        ([call(a="x ")], [call(a=" x")], True),
        ([call(a="x")], [call(a="X")], False),
        ([call(a=1)], [call(a=1.0)], True),
        ([call(a=1)], [call(a="1")], False),
        ([call(a=1)], [call(a=True)], False),
        ([call(a=1)], [call()], False),
        ([call(a=1)], [call(a=1, b=2)], False),
        ([call(a=1)], [call("g", a=1)], False),
        ([call(a=[1, {"b": " c"}])], [call(a=[1.0, {"b": "c "}])], True),
        ([call(a=1), call("g")], [call("g"), call(a=1)], True),
        ([call(), call()], [call()], False),
    ],
)
def test_exact_call(expected: list[ToolCall], answered: list[ToolCall], right: bool) -> None:
    assert exact_call(expected, answered) is right


def test_name_and_label_ignore_arguments() -> None:
    assert name([call(a=1)], [call(a=2)])
    assert not name([call(), call("g")], [call("g"), call()])
    assert label([call(a=1)], [call(a=2), call("g")])
    assert not label([], [call()])
    assert label([], [])


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown metric .exact_cal.: .*; did you mean .exact_call."):
        scorer("exact_cal")


def test_wilson_interval_of_known_cases() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(29, 29)[1] == 1.0


@given(n=st.integers(1, 5000), data=st.data())
def test_wilson_interval_holds_the_share(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n + 1e-12 <= high + 2e-12 <= 1 + 2e-12


PAY = AcceptedCall(name="pay", arguments={"to": ["Anna", "Anna B."], "when": ["May 1, 2024"], "sum": [5]}, optional=["when"])
LIST = AcceptedCall(name="find", arguments={"tags": [["Old", "new"], ["new", "Old"]]})


@pytest.mark.parametrize(
    ("answered", "right"),
    [
        ([call("pay", to="Anna", sum=5)], True),
        ([call("pay", to="anna b", sum=5.0, when="may 1 2024")], True),
        ([call("pay", to="Anna", sum=5, when="May 2, 2024")], False),
        ([call("pay", to="Anna")], False),
        ([call("pay", to="Anna", sum=6)], False),
        ([call("pay", to="Anna", sum="5")], False),
        ([call("pay", to="Anna", sum=5, more=1)], False),
        ([call("give", to="Anna", sum=5)], False),
        ([call("pay", to="Anna", sum=5), call("pay", to="Anna", sum=5)], False),
        ([], False),
    ],
)
def test_calls_of_which_several_forms_are_right(answered: list[ToolCall], right: bool) -> None:
    assert accepted_calls([PAY], answered) is right


def test_accepted_calls_come_in_any_order_and_each_once() -> None:
    pay, find = call("pay", to="Anna", sum=5), call("find", tags=["NEW", "old"])
    assert accepted_calls([PAY, LIST], [find, pay])
    assert not accepted_calls([PAY, LIST], [pay, pay])
    assert not accepted_calls([LIST], [call("find", tags=["new"])])


def test_what_is_accepted_counts_for_exact_calls_alone() -> None:
    message = Message(role="user", content="pay Anna")
    expected = call("pay", to="Anna", sum=5)
    plain = Example(id="1", messages=[message], expected=[expected])
    lenient = plain.model_copy(update={"accepted": [PAY]})
    other = call("pay", to="ANNA B", sum=5)
    assert is_right("exact_call", lenient, [other])
    assert not is_right("exact_call", plain, [other])
    assert is_right("name", lenient, [call("pay")])
    assert is_right("exact_call", lenient, [expected])
