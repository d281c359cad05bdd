from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from greenagent.core.engine import EngineRequest, Grammar, StepReport
from greenagent.core.errors import EngineError, InputError, ModelError, RequestError
from greenagent.engines.base import PromptTooLongError
from greenagent.engines.process import WorkerProcess, describe_exit, worker_environment
from greenagent.engines.worker import WorkerClient

from .conftest import collect, text_of

Start = Callable[..., Any]


async def test_generates_and_reports_steps(start: Start) -> None:
    reports: list[StepReport] = []
    lines: list[str] = []
    client = await start(on_step=reports.append, on_progress=lines.append, burn_s=0.002)
    events = await collect(client, prompt="one two three", logprobs=True)
    assert text_of(events) == "one two three"
    assert (events[-1].prompt_tokens, events[-1].generated_tokens, events[-1].finish_reason) == (3, 3, "stop")
    assert [report.prefill for report in reports] == [{"r": 3}, {}, {}]
    assert [report.decode for report in reports] == [{}, {"r": 1}, {"r": 1}]
    assert all(report.cpu_s >= 0.002 and report.ended_s > report.started_s for report in reports)
    assert lines == ["loading the stub words"]
    assert client.facts["engine"] == "stub"
    assert client.alive


async def test_fifty_at_once_each_get_their_own(start: Start) -> None:
    client = await start(max_batch=8)
    prompts = [f"request number {i} says {i * i}" for i in range(50)]
    answers = await asyncio.gather(
        *(collect(client, request_id=str(i), prompt=prompt, stream=bool(i % 2)) for i, prompt in enumerate(prompts))
    )
    assert [text_of(events) for events in answers] == prompts
    assert all(len(events) == 1 for events in answers[::2])


async def test_refusals_are_request_errors_and_harm_nobody(start: Start) -> None:
    client = await start()
    with pytest.raises(RequestError, match="literals") as caught:
        await collect(client, prompt="x", grammar=Grammar(kind="regex", text="[a-z]"))
    assert caught.value.param == "grammar"
    with pytest.raises(RequestError, match="exactly one"):
        await collect(client)
    assert text_of(await collect(client, prompt="still here")) == "still here"


async def test_a_prompt_that_is_too_long_keeps_its_kind_on_the_way(start: Start) -> None:
    client = await start(tokens=100_000, delay_s=0.01)
    task = asyncio.create_task(collect(client, prompt="x", max_tokens=100_000))
    await asyncio.sleep(0.1)
    client._received(("too long", "r", 9000, 8192))
    with pytest.raises(PromptTooLongError, match="9000 tokens; at most 8192 fit"):
        await task


async def test_a_request_id_is_used_once_at_a_time(start: Start) -> None:
    client = await start(tokens=1000, delay_s=0.005)
    stream = client.generate(EngineRequest(request_id="r", prompt="a", max_tokens=1000))
    await anext(stream)
    with pytest.raises(RequestError, match="already in use"):
        await collect(client, prompt="b")
    await stream.aclose()


async def test_closing_the_iterator_cancels(start: Start) -> None:
    reports: list[StepReport] = []
    client = await start(tokens=100_000, delay_s=0.002, on_step=reports.append)
    stream = client.generate(EngineRequest(request_id="r", prompt="a b", max_tokens=100_000))
    await anext(stream)
    await stream.aclose()
    await asyncio.sleep(0.2)
    count = len(reports)
    await asyncio.sleep(0.2)
    assert len(reports) == count


async def test_cancelling_the_task_cancels(start: Start) -> None:
    reports: list[StepReport] = []
    client = await start(tokens=100_000, delay_s=0.002, on_step=reports.append)
    task = asyncio.create_task(collect(client, prompt="a", max_tokens=100_000))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.2)
    count = len(reports)
    await asyncio.sleep(0.2)
    assert len(reports) == count


async def test_cancel_by_id_ends_the_stream(start: Start) -> None:
    client = await start(tokens=100_000, delay_s=0.002)
    task = asyncio.create_task(collect(client, prompt="a", max_tokens=100_000))
    await asyncio.sleep(0.1)
    client.cancel("r")
    events = await task
    assert events[-1].finish_reason == "cancelled"
    assert events[-1].generated_tokens == len(events) - 1


async def test_a_killed_worker_fails_everybody(start: Start) -> None:
    client = await start(tokens=100_000, delay_s=0.01)
    tasks = [asyncio.create_task(collect(client, request_id=str(i), prompt="a", max_tokens=100_000)) for i in range(10)]
    await asyncio.sleep(0.2)
    os.kill(client.pid, signal.SIGKILL)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(r, EngineError) and "SIGKILL" in str(r) for r in results)
    assert not client.alive
    with pytest.raises(EngineError, match="SIGKILL"):
        await collect(client, prompt="a")


async def test_last_words_are_in_the_error(start: Start) -> None:
    client = await start(tokens=100_000, delay_s=0.01)
    task = asyncio.create_task(collect(client, prompt="a", max_tokens=100_000))
    await asyncio.sleep(0.1)
    os.kill(client.pid, signal.SIGSEGV)
    with pytest.raises(EngineError, match=r"SIGSEGV.*Segmentation fault"):
        await task


async def test_closing_fails_who_waits_and_ends_the_process(start: Start) -> None:
    client = await start(tokens=100_000, delay_s=0.01)
    task = asyncio.create_task(collect(client, prompt="a", max_tokens=100_000))
    await asyncio.sleep(0.1)
    await asyncio.gather(client.aclose(), client.aclose())
    with pytest.raises(EngineError, match="closed"):
        await task
    assert not psutil.pid_exists(client.pid)
    with pytest.raises(EngineError, match="closed"):
        await collect(client, prompt="a")


async def test_an_idle_worker_uses_no_cpu_time(start: Start) -> None:
    client = await start()
    await collect(client, prompt="warm up")
    process = psutil.Process(client.pid)
    await asyncio.sleep(0.1)
    before = sum(process.cpu_times()[:2])
    await asyncio.sleep(1.0)
    assert sum(process.cpu_times()[:2]) - before <= 0.01


_PARENT = """
import asyncio, sys
from greenagent.engines.worker import WorkerClient

async def main():
    client = await WorkerClient.start("words", engine="stub")
    print(client.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_the_worker_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    worker.wait(10)


@pytest.mark.parametrize(
    ("engine", "model", "error", "message"),
    [
        ("openvin", "embedded", InputError, "did you mean 'openvino'"),
        ("openvino", "no/such/model", ModelError, "no model at"),
        ("torch", "no/such/model.gguf", ModelError, "no model at"),
    ],
)
async def test_start_says_why_not(engine: str, model: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        await WorkerClient.start(model, engine=engine)


async def test_start_refuses_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF, honestly")
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        await WorkerClient.start(path, engine="openvino")


async def test_a_start_that_is_given_up_leaves_no_process() -> None:
    children = {child.pid for child in psutil.Process().children()}
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(WorkerClient.start("words", engine="stub", options={"load_s": 30}), 1.5)
    assert {child.pid for child in psutil.Process().children()} <= children


def test_threads_wait_passively(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    environment = worker_environment(3)
    assert (environment["OMP_WAIT_POLICY"], environment["OMP_NUM_THREADS"], environment["KMP_BLOCKTIME"]) == ("PASSIVE", "3", "0")


def test_a_deaf_process_is_killed() -> None:
    process = WorkerProcess(threads=1)
    os.kill(process.pid, signal.SIGSTOP)
    started = time.monotonic()
    assert describe_exit(process.end(0.2)) == "killed by SIGKILL"
    assert time.monotonic() - started < 5
    assert not process.running
    process.socket.close()
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-250) == "killed by signal 250"
