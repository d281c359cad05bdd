from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from greenagent.core.errors import EngineError, InputError, RequestError
from greenagent.serve.bench import BenchOptions, bench, synthetic_prompts, task_prompts
from greenagent.serve.bench_report import Shot, Spread, build_report
from greenagent.serve.bench_wire import Endpoint
from greenagent.serve.server import listen

PROMPTS = synthetic_prompts(4, count=8)
OtherServer = Callable[[FastAPI], Awaitable[str]]


@pytest.fixture
async def other_server() -> AsyncIterator[OtherServer]:
    """Somebody else's endpoint, as an application given by the test."""
    started: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def start(app: FastAPI) -> str:
        opened = listen("127.0.0.1", 0)
        running = uvicorn.Server(uvicorn.Config(app, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1))
        started.append((running, asyncio.create_task(running.serve([opened]))))
        while not running.started:
            await asyncio.sleep(0.005)
        return f"http://127.0.0.1:{opened.getsockname()[1]}"

    yield start
    for running, task in started:
        running.should_exit = True
        await task


@pytest.mark.parametrize("stream", [True, False])
async def test_a_report_has_speed_latency_and_joules(serve: Any, stream: bool) -> None:
    served = await serve("one two three", token_s=0.01)
    seen: list[tuple[int, int]] = []
    report = await bench(
        BenchOptions(url=served.url, concurrency=4, requests=20, stream=stream),
        PROMPTS,
        progress=lambda done, total, remark: seen.append((done, total)),
    )
    assert (report.requests, report.errors, report.model) == (20, {}, "tiny")
    assert (report.output_tokens, report.prompt_tokens, report.tokens_from) == (60, 60, "usage")
    assert report.output_tokens_per_s == pytest.approx(60 / report.duration_s)
    assert report.latency_s.p50 >= 0.03
    assert report.latency_s.p50 <= report.latency_s.p95 <= report.latency_s.p99 <= report.latency_s.max
    measured = served.ledger.activities[-20:]
    assert report.energy_j == pytest.approx(sum(a.energy.energy_j for a in measured))
    assert report.energy_per_request_j == pytest.approx(report.energy_j / 20)
    assert report.energy_per_output_token_j == pytest.approx(report.energy_j / 60)
    assert report.provenance.kind == "measured"
    assert len(served.ledger.activities) == 20 + 4 + 1  # warm-up and the first look are not counted
    assert seen[-1] == (20, 20)
    assert report.client
    if stream:
        assert 0.01 <= report.first_token_s.p50 < report.latency_s.p50
        assert report.per_token_s.p50 >= 0.005
    else:
        assert report.first_token_s is None


async def test_a_rate_does_not_wait_for_answers(serve: Any) -> None:
    served = await serve("slow", token_s=0.3)
    report = await bench(BenchOptions(url=served.url, rate=200.0, requests=40, warmup=0), PROMPTS)
    assert report.requests == 40
    assert report.duration_s < 5  # one after the other they would take 12 s


async def test_a_duration_ends_it(serve: Any) -> None:
    served = await serve("x", token_s=0.01)
    report = await bench(BenchOptions(url=served.url, concurrency=2, duration_s=0.5, warmup=0), PROMPTS)
    assert 0.4 < report.duration_s < 3
    assert report.requests > 2


async def test_errors_are_counted_by_kind(serve: Any) -> None:
    served = await serve("a b c d e f g h i j", token_s=0.05, max_batch=1, max_queue=1)
    report = await bench(BenchOptions(url=served.url, concurrency=6, requests=12, warmup=0), PROMPTS)
    assert report.errors["http 429"] + report.requests == 12
    assert report.requests >= 2


async def test_a_server_without_stream_options_and_energy(other_server: OtherServer) -> None:
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> Any:
        return {"data": [{"id": "other"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        if "stream_options" in await request.json():
            return JSONResponse({"error": {"message": "unknown field stream_options"}}, 400)

        async def parts() -> AsyncIterator[bytes]:
            for word in ("a", "b"):
                yield b'data: {"choices":[{"delta":{"content":"%s"}}]}\r\n\r\n' % word.encode()
            yield b"data: [DONE]\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    report = await bench(BenchOptions(url=await other_server(app), concurrency=2, requests=6), PROMPTS)
    assert (report.requests, report.errors) == (6, {})
    assert (report.output_tokens, report.tokens_from) == (12, "pieces")
    assert report.energy_j is None
    assert report.energy_per_request_j is None
    assert report.provenance is None
    assert report.prompt_tokens is None


async def test_streams_that_break_are_errors(other_server: OtherServer) -> None:
    app = FastAPI()
    served = 0

    @app.post("/v1/chat/completions")
    async def chat() -> Any:
        nonlocal served
        served += 1
        bodies = [b"data: [DONE]\n\n", b'data: {"choices":[]}\n\n', b'data: {"error":{"message":"x"}}\n\n', b"data: {{{\n\n"]
        return StreamingResponse(iter([bodies[(served - 1) % 4]]), media_type="text/event-stream")

    url = await other_server(app)
    report = await bench(BenchOptions(url=url, model="m", concurrency=1, requests=8, warmup=0), PROMPTS)
    assert report.errors == {"stream ended early": 2, "error in the stream": 2, "answer is not OpenAI's": 2}
    assert report.requests == 2


async def test_an_endpoint_that_knows_other_names(other_server: OtherServer) -> None:
    """It has a path of its own, wants the default temperature and the newer name of the limit, and never streams."""
    app = FastAPI()
    accepted: list[dict[str, Any]] = []

    @app.post("/api/v3/chat/completions")
    async def chat(request: Request) -> Any:
        body = await request.json()
        for name, text in (("max_tokens", "use 'max_completion_tokens' instead"), ("temperature", "unsupported 'temperature'")):
            if name in body:
                return JSONResponse({"error": {"message": text}}, 400)
        accepted.append(body)
        return {"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": 2, "completion_tokens": 5}}

    url = await other_server(app)
    report = await bench(BenchOptions(url=f"{url}/api/v3", model="m", requests=4, warmup=0, max_tokens=9), PROMPTS)
    assert (report.requests, report.errors, report.output_tokens) == (4, {}, 20)
    assert all(body["max_completion_tokens"] == 9 and body["stream_options"] for body in accepted)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://x:1", "http://x:1/v1"),
        ("http://x:1/", "http://x:1/v1"),
        ("http://x/v1/", "http://x/v1"),
        ("http://x/api/v3", "http://x/api/v3"),
        ("http://x/v1beta/openai", "http://x/v1beta/openai"),
        ("http://x/openai/v1/chat/completions", "http://x/openai/v1"),
    ],
)
def test_a_path_is_kept_as_it_is(given: str, used: str) -> None:
    assert Endpoint(given).url == used


async def test_a_warm_up_can_be_interrupted(serve: Any) -> None:
    served = await serve("x", token_s=0.02)
    task = asyncio.create_task(bench(BenchOptions(url=served.url, concurrency=2, requests=10, warmup=100_000), PROMPTS))
    while len(served.ledger.activities) < 10:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_endpoint_that_refuses_or_is_not_there(serve: Any, unused_tcp_port: int) -> None:
    served = await serve()
    with pytest.raises(RequestError, match="no model 'huge'"):
        await bench(BenchOptions(url=served.url, model="huge"), PROMPTS)
    with pytest.raises(EngineError, match=r"cannot|answer"):
        await bench(BenchOptions(url=f"http://127.0.0.1:{unused_tcp_port}"), PROMPTS)
    with pytest.raises(InputError, match="not a URL"):
        await bench(BenchOptions(url="localhost:8080"), PROMPTS)


async def test_an_interrupted_bench_reports_what_it_has(serve: Any) -> None:
    served = await serve("x", token_s=0.02)
    task = asyncio.create_task(bench(BenchOptions(url=served.url, concurrency=2, requests=100_000, warmup=0), PROMPTS))
    while len(served.ledger.activities) < 10:
        await asyncio.sleep(0.01)
    task.cancel()
    report = await task
    assert report.interrupted
    assert report.requests >= 5


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"rate": 0.0}, {"requests": 0}, {"duration_s": -1.0}, {"warmup": -1}])
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        BenchOptions(url="http://x", **wrong)


def test_percentiles_interpolate() -> None:
    spread = Spread.of([float(v) for v in range(1, 101)])
    assert spread is not None
    assert (spread.p50, spread.p95, spread.p99, spread.max) == pytest.approx((50.5, 95.05, 99.01, 100.0))
    assert Spread.of([]) is None
    assert Spread.of([2.0]).p99 == 2.0


def test_unknown_joules_stay_unknown_and_are_not_averaged_in() -> None:
    shots = [Shot(latency_s=1, tokens=2, energy_j=4.0), Shot(latency_s=1, tokens=2), Shot(error="timeout")]
    report = build_report(shots, duration_s=2.0, url="u", model="m", started_at="2026-01-01T00:00:00Z", options={})
    assert (report.energy_per_request_j, report.energy_requests, report.energy_per_output_token_j) == (4.0, 1, 2.0)
    assert (report.requests, report.errors, report.requests_per_s) == (2, {"timeout": 1}, 1.0)


def test_synthetic_prompts_are_the_same_for_the_same_seed() -> None:
    assert synthetic_prompts(5, seed=3) == synthetic_prompts(5, seed=3)
    assert synthetic_prompts(5, seed=3) != synthetic_prompts(5, seed=4)
    assert all(len(p[0]["content"].split()) == 5 for p in synthetic_prompts(5))


def test_prompts_with_tools_of_their_own_are_refused(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text('{"interface": "declared"}')
    answer = {"role": "assistant", "content": "no"}
    row = {"messages": [{"role": "user", "content": "stop it"}, answer], "tools": [{"function": {"name": "stop"}}]}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="has tools of its own"):
        task_prompts(str(tmp_path))
