from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from greenagent.core.errors import EnvironmentalError, InputError, ModelError
from greenagent.ledger import open_ledger
from greenagent.serve import server
from greenagent.serve.config import ServeConfig, TierConfig, validated
from greenagent.serve.server import listen

from .conftest import Running


def options(tmp_path: Path, **changes: Any) -> ServeConfig:
    tier = {"model": "stub", "engine": "stub"}
    own = {name: changes.pop(name) for name in list(changes) if name in TierConfig.model_fields and name != "name"}
    return validated({"port": 0, "ledger": str(tmp_path / "ledger.db"), "tiers": [tier | own]} | changes)


def ask(words: str) -> dict[str, Any]:
    return {"model": "stub", "messages": [{"role": "user", "content": words}]}


async def test_sigterm_finishes_what_is_in_flight_and_writes_the_idle_joules(tmp_path: Path) -> None:
    running = Running(options(tmp_path))
    async with running as ready, httpx.AsyncClient(base_url=ready.url, timeout=30) as http:
        many = " ".join(["word"] * 3000)
        task = asyncio.create_task(http.post("/v1/chat/completions", json=ask(many) | {"max_tokens": 3000}))
        assert (await http.post("/v1/chat/completions", json=ask("short"))).status_code == 200
        os.kill(os.getpid(), signal.SIGTERM)
        response = await task
        await running.task
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] == 3000
    with open_ledger(tmp_path / "ledger.db") as ledger:
        stored = list(ledger.activities())
        assert ledger.verify().ok
    assert sorted(a.kind for a in stored) == ["idle", "request", "request"]
    assert all(a.energy.energy_j is not None and a.energy.energy_j > 0 for a in stored)
    assert {a.outcome for a in stored} == {"ok"}


async def test_answers_that_outlast_the_grace_end_with_an_error(tmp_path: Path) -> None:
    running = Running(options(tmp_path, grace_s=0.2))
    async with running as ready, httpx.AsyncClient(base_url=ready.url, timeout=30) as http:
        endless = ask(" ".join(["word"] * 200_000)) | {"max_tokens": 200_000}
        task = asyncio.create_task(http.post("/v1/chat/completions", json=endless))
        async with http.stream("POST", "/v1/chat/completions", json=endless | {"stream": True}) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            os.kill(os.getpid(), signal.SIGTERM)
            rest = [line async for line in lines]
        plain = await task
        await running.task
    assert (plain.status_code, plain.json()["error"]["code"]) == (503, "server_stopping")
    assert stream.status_code == 200
    assert "server_stopping" in "".join(rest[-4:])


async def test_idle_joules_are_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_INTERVAL_S", 0.1)
    async with Running(options(tmp_path, zone="DE")) as ready:
        await asyncio.sleep(0.5)
    with open_ledger(ready.ledger) as ledger:
        idle = [a for a in ledger.activities() if a.kind == "idle"]
    assert len(idle) >= 3
    assert all(a.zone == "DE" and a.energy.carbon_g is not None for a in idle)
    assert all(a.ended_at == b.started_at for a, b in pairwise(idle))
    assert math.fsum(a.energy.energy_j or 0 for a in idle) > 0


async def test_the_ledger_adds_up_to_the_meter(tmp_path: Path) -> None:
    async with Running(options(tmp_path)) as ready, httpx.AsyncClient(base_url=ready.url, timeout=30) as http:
        await asyncio.gather(
            *(http.post("/v1/chat/completions", json=ask("a few words") | {"stream": i % 2 == 0}) for i in range(40))
        )
        metrics = (await http.get("/metrics")).text
    meter_j = next(
        float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("greenagent:meter_energy_joules_total")
    )
    with open_ledger(tmp_path / "ledger.db") as ledger:
        stored = list(ledger.activities())
    assert sum(a.kind == "request" for a in stored) == 40
    requests_j = math.fsum(a.energy.energy_j or 0 for a in stored if a.kind == "request")
    idle_j = math.fsum(a.energy.energy_j or 0 for a in stored if a.kind == "idle")
    metric_j = sum(
        float(line.split()[-1])
        for line in metrics.splitlines()
        if line.startswith(("greenagent:energy_joules_total", "greenagent:idle_energy_joules_total"))
    )
    assert metric_j == pytest.approx(meter_j, rel=1e-6)
    assert 0 < requests_j < meter_j <= requests_j + idle_j  # the last idle record is younger than the metrics


async def test_exposure_without_keys_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without API keys"):
        await server.serve(options(tmp_path, host="0.0.0.0"), lambda ready: None)
    assert not (tmp_path / "ledger.db").exists()


async def test_a_port_in_use_is_one_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentalError, match=f"port {port} on 127.0.0.1 is in use"):
            await server.serve(options(tmp_path, port=port), lambda ready: None)


async def test_what_cannot_be_served_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model at"):
        await server.serve(options(tmp_path, engine="openvino", model=str(tmp_path / "nothing")), lambda ready: None)
    with pytest.raises(InputError, match="max_queue"):
        await server.serve(options(tmp_path, max_queue=-1), lambda ready: None)
    with pytest.raises(InputError, match="unknown zone"):
        await server.serve(options(tmp_path, zone="Atlantis"), lambda ready: None)


def test_streams_are_not_held_back_by_nagle() -> None:
    with listen("127.0.0.1", 0) as opened:
        assert opened.proto == socket.IPPROTO_TCP


def test_ports_and_hosts_that_do_not_exist() -> None:
    with pytest.raises(InputError, match="out of range"):
        listen("127.0.0.1", 70000)
