"""Writes the Grafana dashboard, deploy/grafana/greenagent.json; ``--check`` fails when it differs.

One panel a row below: title, unit, and the queries with their legends. All panels are for the models chosen at the top.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from generated import keep

TARGET = Path(__file__).parent.parent / "deploy" / "grafana" / "greenagent.json"

_BY = '{model_name=~"$model"}'
_WINDOW = "[$__rate_interval]"


def rate(name: str, labels: str = "", by: str = "") -> str:
    """The rate of a counter of ours, summed (``by``: kept apart by a label)."""
    where = _BY if not labels else f'{{model_name=~"$model",{labels}}}'
    return f"sum{f' by ({by})' if by else ''} (rate(greenagent:{name}_total{where}{_WINDOW}))"


def gauge(name: str, by: str = "") -> str:
    """A gauge of ours."""
    return f"sum{f' by ({by})' if by else ''} (greenagent:{name}{_BY})"


def quantile(share: float, name: str) -> str:
    """A quantile of a histogram of ours."""
    return f"histogram_quantile({share}, sum by (le) (rate(greenagent:{name}_bucket{_BY}{_WINDOW})))"


Panel = tuple[str, str, dict[str, str]]

REQUESTS_J = rate("energy_joules")
PANELS: list[Panel] = [
    (
        "Watts",
        "watt",
        {
            "engine": rate("energy_joules", 'boundary="engine"'),
            "overhead": rate("energy_joules", 'boundary="overhead"'),
            "shadow": rate("shadow_energy_joules"),
            "idle": rate("idle_energy_joules"),
            "meter": rate("meter_energy_joules"),
        },
    ),
    ("Joules per request", "joule", {"requests": f"{REQUESTS_J} / {rate('requests', 'outcome=' + chr(34) + 'ok' + chr(34))}"}),
    ("Joules per generated token", "joule", {"all": f"{REQUESTS_J} / {rate('generation_tokens')}"}),
    (
        "Fitted joules of one more token",
        "joule",
        {
            "prompt, {{engine}}": gauge("joules_per_prompt_token", "engine"),
            "generated, {{engine}}": gauge("joules_per_generated_token", "engine"),
            "step, {{engine}}": gauge("joules_per_step", "engine"),
        },
    ),
    ("Grams of CO2 equivalent per hour", "massg", {"{{zone}}": f"3600 * {rate('carbon_grams', by='zone')}"}),
    ("Requests per second", "reqps", {"{{outcome}}": rate("requests", by="outcome")}),
    ("Who answers", "reqps", {"{{tier}}": rate("answers", by="tier")}),
    ("Tokens per second", "short", {"prompt": rate("prompt_tokens"), "generated": rate("generation_tokens")}),
    (
        "Time to first token",
        "s",
        {"p50": quantile(0.5, "time_to_first_token_seconds"), "p95": quantile(0.95, "time_to_first_token_seconds")},
    ),
    (
        "Whole requests",
        "s",
        {
            "p50": quantile(0.5, "e2e_request_latency_seconds"),
            "p95": quantile(0.95, "e2e_request_latency_seconds"),
            "p99": quantile(0.99, "e2e_request_latency_seconds"),
        },
    ),
    ("Time between tokens", "s", {"p95": quantile(0.95, "time_per_output_token_seconds")}),
    ("In flight", "short", {"running": gauge("num_requests_running"), "waiting": gauge("num_requests_waiting")}),
    (
        "Replicas",
        "short",
        {
            "running on {{replica}}": gauge("replica_requests_running", "replica"),
            "{{replica}} awake": gauge("replica_awake", "replica"),
            "wakes of {{replica}}": gauge("replica_wakes", "replica"),
        },
    ),
    (
        "Cascade: answers compared with the top tier's",
        "short",
        {
            "shadowed": gauge("cascade_shadowed_requests"),
            "unlike": gauge("cascade_shadowed_unlike"),
            "evidence against the certificate": gauge("cascade_evidence"),
            "alarm": gauge("cascade_alarm"),
        },
    ),
]


def dashboard() -> dict[str, Any]:
    """As Grafana imports it."""
    return {
        "title": "greenagent",
        "uid": "greenagent",
        "tags": ["greenagent", "llm", "energy"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _models()]},
        "panels": [_panel(number, *panel) for number, panel in enumerate(PANELS)],
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _models() -> dict[str, Any]:
    return {
        "name": "model",
        "type": "query",
        "label": "Model",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": "label_values(greenagent:meter_energy_joules_total, model_name)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
    }


def _panel(number: int, title: str, unit: str, queries: dict[str, str]) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": query, "legendFormat": legend}
            for i, (legend, query) in enumerate(queries.items())
        ],
    }


if __name__ == "__main__":
    sys.exit(keep(TARGET, json.dumps(dashboard(), indent=1) + "\n", "what scripts/grafana.py says"))
