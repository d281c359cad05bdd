"""Prometheus metrics: vLLM's names where the meaning is the same, and joules beside them.

`energy_joules_total` has the boundaries ``engine`` and ``overhead`` (their sum is the requests' energy); with
`idle_energy_joules_total` and `shadow_energy_joules_total` they add up to `meter_energy_joules_total`, apart from requests in
flight and from what other servers used. Figures that are not known are not exported.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from greenagent.core.records import Energy
from greenagent.serve.accounts import TokenCosts
from greenagent.serve.cascade.shadow import Shadows
from greenagent.serve.replicas.pool import Pool
from greenagent.serve.replicas.replica import Replica

__all__ = ["Telemetry"]

_PREFIX = "greenagent:"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Telemetry:
    """One gateway's metrics, in a registry of their own.

    :param in_flight: how many requests the gateway has now.
    :param max_batch: how many of them the engine runs at once; the others wait.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, model: str, in_flight: Callable[[], int], max_batch: int) -> None:
        self._registry = registry = CollectorRegistry()
        self._idle_seen_j = 0.0
        self._meter_seen_j = 0.0

        def gauge(name: str, text: str, value: Callable[[], float]) -> None:
            Gauge(_PREFIX + name, text, ["model_name"], registry=registry).labels(model).set_function(value)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(_PREFIX + name, text, ["model_name"], registry=registry, buckets=_SECONDS).labels(model)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(_PREFIX + name, text, ["model_name", *labels], registry=registry)

        gauge("num_requests_running", "Requests the engine runs now.", lambda: min(in_flight(), max_batch))
        gauge("num_requests_waiting", "Requests that wait for the engine.", lambda: max(0, in_flight() - max_batch))
        self._first_token = histogram("time_to_first_token_seconds", "From arrival to the first token.")
        self._per_token = histogram("time_per_output_token_seconds", "Mean time between tokens of a request.")
        self._latency = histogram("e2e_request_latency_seconds", "From arrival to the committed end.")
        self._prompt = counter("prompt_tokens", "Prompt tokens processed.").labels(model)
        self._generated = counter("generation_tokens", "Tokens generated.").labels(model)
        self._requests = counter("requests", "Requests by outcome: ok, error, cancelled, refused.", "outcome")
        self._energy = counter("energy_joules", "Joules of requests, by boundary.", "boundary", "provenance")
        self._idle = counter("idle_energy_joules", "Joules that no request used.", "provenance")
        self._meter = counter("meter_energy_joules", "Everything the meter counted.", "provenance")
        self._carbon = counter("carbon_grams", "Grams of CO2 equivalent of requests.", "zone", "provenance")
        self._shadow = counter("shadow_energy_joules", "Joules of asking the top tier too, to watch a cascade.", "provenance")
        self._answers = counter("answers", "Requests answered, by tier.", "tier")
        costs = {"prompt": "one more prompt token", "generated": "one more generated token", "step": "a step, whatever it holds"}
        self._costs = {
            kind: Gauge(f"{_PREFIX}joules_per_{name}", f"Fitted joules of {text}.", ["model_name", "engine"], registry=registry)
            for (kind, text), name in zip(costs.items(), ("prompt_token", "generated_token", "step"), strict=True)
        }
        self._model = model
        self._replicas: dict[str, Gauge] = {}

    def watches(self, shadows: Shadows) -> None:
        """Adds what shadowing has seen of a cascade."""
        found: dict[str, tuple[str, Callable[[], float]]] = {
            "cascade_shadowed_requests": ("Requests asked of the top tier too.", lambda: shadows.watch.seen),
            "cascade_shadowed_unlike": ("Of those, answers that were not the top tier's.", lambda: shadows.watch.losses),
            "cascade_evidence": ("Evidence (e-value) that more differs than was certified.", lambda: shadows.watch.evidence),
            "cascade_alarm": ("1 once the top tier answers everything.", lambda: float(shadows.alarmed_at is not None)),
        }
        for name, (text, value) in found.items():
            gauge = Gauge(_PREFIX + name, text, ["model_name"], registry=self._registry)
            gauge.labels(self._model).set_function(value)

    def shows(self, pool: Pool) -> None:
        """Adds a tier's replicas."""
        found: dict[str, tuple[str, Callable[[Replica], float]]] = {
            "replica_requests_running": ("Requests in flight on a replica.", lambda replica: replica.in_flight),
            "replica_awake": ("1 while its engine is loaded.", lambda replica: float(replica.awake)),
            "replica_wakes": ("How often its engine was loaded.", lambda replica: replica.wakes),
        }
        for name, (text, value) in found.items():
            if name not in self._replicas:
                self._replicas[name] = Gauge(_PREFIX + name, text, ["model_name", "replica"], registry=self._registry)
            for replica in pool.replicas:
                self._replicas[name].labels(self._model, replica.name).set_function(partial(value, replica))

    def refused(self) -> None:
        """Counts a request that was turned away: a bad one, a wrong key, a full queue."""
        self._requests.labels(self._model, "refused").inc()

    def finished(
        self,
        outcome: str,
        energy: Energy,
        *,
        prompt_tokens: int | None,
        generated_tokens: int | None,
        latency_s: float,
        first_token_s: float | None,
        tier: str,
    ) -> None:
        """Counts a request that ended; times are seconds since it arrived."""
        self._requests.labels(self._model, outcome).inc()
        if outcome == "ok":
            self._answers.labels(self._model, tier).inc()
        self._latency.observe(latency_s)
        self._prompt.inc(prompt_tokens or 0)
        self._generated.inc(generated_tokens or 0)
        if first_token_s is not None:
            self._first_token.observe(first_token_s)
            if generated_tokens is not None and generated_tokens > 1:
                self._per_token.observe((latency_s - first_token_s) / (generated_tokens - 1))
        kind = energy.provenance.kind if energy.provenance else "unknown"
        for boundary, joules in (("engine", energy.engine_j), ("overhead", energy.overhead_j)):
            if joules is not None:
                self._energy.labels(self._model, boundary, kind).inc(max(0.0, joules))
        if energy.carbon_g is not None and energy.carbon_provenance is not None:
            self._carbon.labels(self._model, energy.zone or "", energy.carbon_provenance.kind).inc(max(0.0, energy.carbon_g))

    def shadowed(self, energy: Energy) -> None:
        """Counts the joules of asking the top tier too."""
        if energy.energy_j is not None and energy.provenance is not None:
            self._shadow.labels(self._model, energy.provenance.kind).inc(max(0.0, energy.energy_j))

    def costs(self, engine: str, costs: TokenCosts) -> None:
        """What is fitted of an engine's joules."""
        for kind, joules in (("prompt", costs.prompt), ("generated", costs.generated), ("step", costs.step)):
            if joules is not None:
                self._costs[kind].labels(self._model, engine).set(joules)

    def render(self, idle_j: float, meter_j: float, provenance: str) -> bytes:
        """The text that Prometheus reads, with the idle and total joules as they are now."""
        self._idle.labels(self._model, provenance).inc(max(0.0, idle_j - self._idle_seen_j))
        self._meter.labels(self._model, provenance).inc(max(0.0, meter_j - self._meter_seen_j))
        self._idle_seen_j, self._meter_seen_j = idle_j, meter_j
        return generate_latest(self._registry)
