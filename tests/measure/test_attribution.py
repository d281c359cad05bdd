from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.engine import StepReport
from greenagent.core.errors import InputError
from greenagent.measure.attribution import Attributor, Share


def report(
    start: float, end: float, cpu: float, prefill: dict[str, int] | None = None, decode: dict[str, int] | None = None
) -> StepReport:
    return StepReport(started_s=start, ended_s=end, cpu_s=cpu, prefill=prefill or {}, decode=decode or {})


def test_idle_without_requests() -> None:
    a = Attributor()
    a.advance(100.0, 1.0, 1.0, None, 0.0)
    a.advance(130.0, 1.5, 1.2, None, 1.0)
    assert a.idle_j == 30
    assert a.total_j == 30


def test_a_busy_span_between_two_requests_is_the_next_ones_overhead() -> None:
    a = Attributor()
    a.advance(0.0, 0.0, 0.0, None, 0.0)
    a.advance(10.0, 0.2, 0.8, None, 1.0)
    assert a.idle_j == pytest.approx(10 - 10 * 0.8 * 0.8)
    assert a.pending_j == pytest.approx(6.4)
    a.arrive("a", 1.0)
    assert a.pending_j == 0
    assert a.finish("a") == Share(0.0, pytest.approx(6.4))


def test_what_is_kept_for_a_request_that_does_not_come_is_idle() -> None:
    a = Attributor()
    a.advance(0.0, 0.0, 0.0, None, 0.0)
    a.advance(10.0, 0.0, 1.0, None, 1.0)
    assert (a.idle_j, a.pending_j) == (0, 10)
    a.rest()
    assert (a.idle_j, a.pending_j) == (10, 0)


def test_the_joules_of_a_refused_request_are_idle() -> None:
    a = Attributor()
    a.advance(0.0, 0.0, 0.0, None, 0.0)
    a.arrive("refused", 0.0)
    a.arrive("b", 0.0)
    a.advance(8.0, 0.0, 1.0, None, 1.0)
    a.drop("refused")
    assert (a.idle_j, a.requests_j) == (4, 4)
    assert a.finish("b") == Share(0.0, 4.0)
    with pytest.raises(InputError, match="not in flight"):
        a.drop("refused")


def test_process_meter_splits_by_cpu_then_by_tokens() -> None:
    a = Attributor(decode_weight=5.0)
    a.advance(0.0, 0.0, 0.0, None, 0.0)
    a.arrive("a", 0.0)
    a.arrive("b", 0.0)
    a.step(report(0, 1, 3.0, prefill={"a": 10}, decode={"b": 2}))
    a.advance(40.0, 3.0, 1.0, None, 1.0)
    first, second = a.finish("a"), a.finish("b")
    assert first == Share(engine_j=pytest.approx(15.0), overhead_j=pytest.approx(5.0))
    assert second == Share(engine_j=pytest.approx(15.0), overhead_j=pytest.approx(5.0))
    assert a.idle_j == 0


def test_steps_weigh_by_their_cpu_time() -> None:
    a = Attributor(decode_weight=1.0)
    a.advance(0.0, 0.0, 0.0, None, 0.0)
    a.arrive("a", 0.0)
    a.arrive("b", 0.0)
    a.step(report(0.0, 0.5, 3.0, prefill={"a": 1}))
    a.step(report(0.5, 1.0, 1.0, decode={"b": 100}))
    a.advance(8.0, 4.0, 0.0, None, 1.0)
    assert a.finish("a").engine_j == pytest.approx(6.0)
    assert a.finish("b").engine_j == pytest.approx(2.0)


def test_host_meter_leaves_the_rest_of_the_host_idle() -> None:
    a = Attributor()
    a.advance(0.0, 0.0, 0.0, 100.0, 0.0)
    a.arrive("a", 0.0)
    a.step(report(0, 1, 2.0, prefill={"a": 3}))
    a.advance(50.0, 2.0, 1.0, 110.0, 1.0)
    share = a.finish("a")
    assert share.engine_j == pytest.approx(10.0)
    assert share.overhead_j == pytest.approx(5.0)
    assert a.idle_j == pytest.approx(35.0)


def test_host_clock_ticks_never_make_more_than_the_span() -> None:
    a = Attributor()
    a.advance(0.0, 0.0, 0.0, 100.0, 0.0)
    a.arrive("a", 0.0)
    a.step(report(0, 1, 2.0, prefill={"a": 3}))
    a.advance(50.0, 0.02, 0.005, 100.01, 1.0)
    share = a.finish("a")
    assert share.energy_j + a.idle_j == pytest.approx(50.0)
    assert share.engine_j == pytest.approx(40.0)


def test_a_span_without_cpu_time_is_overhead_of_those_who_wait() -> None:
    a = Attributor()
    a.advance(0.0, 5.0, 5.0, None, 0.0)
    a.arrive("a", 0.0)
    a.advance(7.0, 5.0, 5.0, None, 1.0)
    assert a.finish("a") == Share(0.0, 7.0)


def test_a_long_step_gets_the_joules_of_the_spans_it_ran_through() -> None:
    a = Attributor()
    a.advance(0.0, 0.0, 0.0, None, 0.0)
    a.arrive("a", 0.0)
    a.advance(10.0, 1.0, 0.0, None, 1.0)
    assert a.pending_j == 10
    a.arrive("b", 1.0)
    a.step(report(0.0, 2.0, 2.0, prefill={"a": 100}))
    a.advance(20.0, 2.0, 0.0, None, 2.0)
    assert a.pending_j == 0
    assert a.finish("a") == Share(20.0, 0.0)
    assert a.finish("b") == Share(0.0, 0.0)


def test_engine_work_before_a_step_began_is_overhead() -> None:
    a = Attributor()
    a.advance(0.0, 0.0, 0.0, None, 0.0)
    a.arrive("a", 0.0)
    a.advance(10.0, 1.0, 0.0, None, 1.0)
    a.step(report(1.5, 2.0, 0.5, prefill={"a": 100}))
    a.advance(14.0, 2.0, 0.0, None, 2.0)
    assert a.finish("a") == Share(4.0, 10.0)


def test_engine_work_that_no_step_claims_is_overhead_in_the_end() -> None:
    a = Attributor()
    a.advance(0.0, 0.0, 0.0, None, 0.0)
    a.arrive("a", 0.0)
    for second in range(1, 41):
        a.advance(10.0 * second, second, 0.0, None, float(second))
    assert a.pending_j == pytest.approx(300.0)
    a.arrive("late", 41.0)
    late = a.finish("late")
    assert late == Share(0.0, pytest.approx(150.0))
    assert a.finish("a") == Share(0.0, pytest.approx(250.0))
    assert a.pending_j == 0


def test_a_restarted_engine_counts_from_zero() -> None:
    a = Attributor()
    a.advance(0.0, 50.0, 1.0, None, 0.0)
    a.arrive("a", 0.0)
    a.step(report(0, 1, 1.0, prefill={"a": 1}))
    a.advance(8.0, 3.0, 2.0, None, 1.0)
    assert a.finish("a") == Share(pytest.approx(6.0), pytest.approx(2.0))


def test_work_for_a_request_that_is_gone_is_overhead_of_the_others() -> None:
    a = Attributor(decode_weight=1.0)
    a.advance(0.0, 0.0, 0.0, None, 0.0)
    a.arrive("a", 0.0)
    a.arrive("gone", 0.0)
    assert a.finish("gone") == Share(0.0, 0.0)
    a.step(report(0, 1, 1.0, decode={"a": 1, "gone": 3}))
    a.advance(8.0, 1.0, 0.0, None, 1.0)
    assert a.finish("a") == Share(pytest.approx(2.0), pytest.approx(6.0))


def test_fitted_joules_per_token() -> None:
    a = Attributor()
    assert a.engine().j_per_prefill_token is None
    assert a.engine().decode_weight == 4.0
    a.advance(0.0, 0.0, 0.0, None, 0.0)
    a.arrive("a", 0.0)
    cpu = 0.0
    for i in range(1, 60):
        prefill, decode = 10 * (i % 7), 1 + i % 5
        cpu += 0.001 * prefill + 0.008 * decode
        a.step(report(i - 1, i, 0.001 * prefill + 0.008 * decode, prefill={"a": prefill}, decode={"a": decode}))
        a.advance(20.0 * cpu, cpu, 0.0, None, float(i))
    assert a.engine().decode_weight == pytest.approx(8.0, rel=1e-3)
    assert a.engine().j_per_prefill_token == pytest.approx(0.02, rel=1e-3)
    assert a.engine().j_per_decode_token == pytest.approx(0.16, rel=1e-3)


def test_wrong_calls_say_so() -> None:
    a = Attributor()
    a.arrive("a", 0.0)
    with pytest.raises(InputError, match="'a' is in flight already"):
        a.arrive("a", 0.0)
    with pytest.raises(InputError, match="'b' is not in flight"):
        a.finish("b")
    a.advance(5.0, 0.0, 0.0, None, 0.0)
    with pytest.raises(InputError, match=r"went back from 5\.0 J to 4\.0 J"):
        a.advance(4.0, 0.0, 0.0, None, 1.0)
    with pytest.raises(InputError, match="cumulative"):
        a.advance(math.nan, 0.0, 0.0, None, 1.0)
    a.advance(6.0, 0.0, 0.0, None, 2.0)
    assert a.total_j == 1.0
    with pytest.raises(InputError, match="decode_weight"):
        Attributor(decode_weight=0)


def test_each_engine_pays_its_own_requests() -> None:
    a = Attributor(decode_weight=1.0)
    a.advance(0.0, {"small": 0.0, "large": 0.0}, 0.0, None, 0.0)
    a.arrive("a", 0.0)
    a.arrive("b", 0.0)
    a.step(report(0.0, 1.0, 1.0, {"a": 10}), "small")
    a.step(report(0.0, 1.0, 3.0, {"b": 10}), "large")
    a.advance(40.0, {"small": 1.0, "large": 3.0}, 0.0, None, 1.0)
    assert (a.finish("a"), a.finish("b")) == (Share(10.0, 0.0), Share(30.0, 0.0))


def test_what_waits_for_a_step_is_borne_by_those_who_ask_that_engine() -> None:
    a = Attributor()
    a.advance(0.0, {"small": 0.0, "large": 0.0}, 0.0, None, 0.0)
    for name, asked in (("a", "small"), ("b", "large"), ("c", "large")):
        a.arrive(name, 0.0)
        a.asks(name, asked)
    a.advance(30.0, {"small": 0.0, "large": 1.0}, 0.0, None, 1.0)
    assert a.pending_j == 30
    assert [a.finish(name) for name in "abc"] == [Share(), Share(0.0, 15.0), Share(0.0, 15.0)]
    assert a.pending_j == 0


def test_an_engine_that_nobody_asks_is_overhead_of_all() -> None:
    a = Attributor()
    a.advance(0.0, {"small": 0.0, "large": 0.0}, 0.0, None, 0.0)
    a.arrive("a", 0.0)
    a.asks("a", "small")
    a.advance(8.0, {"small": 0.0, "large": 1.0}, 0.0, None, 1.0)  # it still works on an answer that was given up
    assert a.finish("a") == Share(0.0, 8.0)


@dataclass
class Run:
    """Drives an attributor through a random schedule and keeps what it handed out."""

    host: bool
    attributor: Attributor = field(default_factory=Attributor)
    now_s: float = 0.0
    meter_j: float = 1e6
    engine_s: dict[str, float] = field(default_factory=lambda: {"small": 3.0, "large": 5.0})
    gateway_s: float = 2.0
    host_s: float = 1e4
    arrived: int = 0
    handed_out: list[float] = field(default_factory=list)

    def advance(self, joules: float, small: float, large: float, gateway: float, other: float) -> None:
        self.now_s += 0.01 + small + large
        self.meter_j += joules
        self.engine_s["small"] += small
        self.engine_s["large"] += large
        self.gateway_s += gateway
        self.host_s += small + large + gateway + other
        self.attributor.advance(self.meter_j, self.engine_s, self.gateway_s, self.host_s if self.host else None, self.now_s)

    def arrive(self) -> None:
        self.arrived += 1
        self.attributor.arrive(str(self.arrived), self.now_s)

    def finish(self, which: int) -> None:
        flying = sorted(self.attributor.in_flight)
        if flying:
            share = self.attributor.finish(flying[which % len(flying)])
            assert share.engine_j >= 0
            assert share.overhead_j >= 0
            self.handed_out.append(share.energy_j)

    def drop(self, which: int) -> None:
        flying = sorted(self.attributor.in_flight)
        if flying:
            self.attributor.drop(flying[which % len(flying)])

    def rest(self) -> None:
        self.attributor.rest()

    def asks(self, which: int, engine: str) -> None:
        flying = sorted(self.attributor.in_flight)
        if flying:
            self.attributor.asks(flying[which % len(flying)], engine)

    def step(self, engine: str, cpu: float, tokens: list[tuple[int, int, int]], back_s: float) -> None:
        ids = [*sorted(self.attributor.in_flight), "unknown"]
        prefill = {ids[i % len(ids)]: p for i, p, _ in tokens}
        decode = {ids[i % len(ids)]: d for i, _, d in tokens}
        self.attributor.step(report(self.now_s - back_s, self.now_s, cpu, prefill, decode), engine)


amount = st.one_of(st.just(0.0), st.floats(0, 1e4), st.floats(0, 1e-6))
engine = st.sampled_from(["small", "large"])
token = st.tuples(st.integers(0, 5), st.integers(0, 300), st.integers(0, 8))
event = st.one_of(
    st.tuples(st.just("advance"), amount, amount, amount, amount, amount),
    st.tuples(st.just("arrive")),
    st.tuples(st.just("finish"), st.integers(0, 9)),
    st.tuples(st.just("drop"), st.integers(0, 9)),
    st.tuples(st.just("rest")),
    st.tuples(st.just("asks"), st.integers(0, 9), engine),
    st.tuples(st.just("step"), engine, amount, st.lists(token, max_size=5), st.floats(0, 5)),
)


@given(host=st.booleans(), events=st.lists(event, max_size=40))
def test_requests_overhead_and_idle_add_up_to_the_meter(host: bool, events: list[tuple[object, ...]]) -> None:
    run = Run(host)
    a = run.attributor
    run.advance(0.0, 0.0, 0.0, 0.0, 0.0)
    start_j = run.meter_j
    for name, *values in events:
        getattr(run, str(name))(*values)
        assert math.isclose(a.requests_j + a.idle_j + a.pending_j, run.meter_j - start_j, rel_tol=1e-9, abs_tol=1e-9)
    while a.in_flight:
        run.finish(0)
    a.rest()
    assert a.pending_j == 0
    assert a.total_j == run.meter_j - start_j
    assert math.isclose(math.fsum(run.handed_out) + a.idle_j, a.total_j, rel_tol=1e-9, abs_tol=1e-9)
