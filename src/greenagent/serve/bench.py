"""A load generator for OpenAI endpoints: requests at a fixed concurrency, or at a fixed rate whether or not answers come.

At a rate, arrivals are a Poisson process, and a request's time counts from when it was due: a server that falls behind cannot
hide it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from greenagent.core.errors import InputError, RequestError
from greenagent.measure.machine import machine_facts
from greenagent.serve.bench_report import BenchReport, Shot, build_report
from greenagent.serve.bench_wire import Endpoint
from greenagent.tasks import load_task
from greenagent.tasks.write import openai_messages

__all__ = ["BenchOptions", "Progress", "bench", "synthetic_prompts", "task_prompts"]

Messages = list[dict[str, Any]]
Progress = Callable[[int, int, str], None]
"""Called with what is done, the total (requests, or seconds) and a remark."""

_WORDS = (
    *("please", "could", "you", "tell", "me", "how", "to", "move", "money", "from", "my", "savings", "the", "joint", "account"),
    *("before", "end", "of", "this", "month", "and", "what", "it", "costs", "when", "card", "was", "lost", "on", "a", "trip"),
    *("abroad", "or", "payment", "is", "still", "pending", "since", "last", "week"),
)


@dataclass(frozen=True)
class BenchOptions:
    """What to fire. It ends after ``requests`` or ``duration_s``, whichever comes first (default: 100 requests).

    ``rate`` (requests per second) replaces ``concurrency``. ``warmup`` requests are not counted. ``stream`` is needed for the
    time to first token.
    """

    url: str
    model: str | None = None
    concurrency: int = 8
    rate: float | None = None
    requests: int | None = None
    duration_s: float | None = None
    warmup: int | None = None
    max_tokens: int | None = None
    stream: bool = True
    timeout_s: float = 300.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks: list[tuple[str, float | None, float]] = [
            ("concurrency", self.concurrency, 1),
            ("requests", self.requests, 1),
            ("warmup", self.warmup, 0),
            ("max_tokens", self.max_tokens, 1),
        ]
        for name, value, least in checks:
            if value is not None and value < least:
                raise InputError(f"{name} is {value}: at least {least}")
        for name, value in (("rate", self.rate), ("duration_s", self.duration_s), ("timeout_s", self.timeout_s)):
            if value is not None and not value > 0:
                raise InputError(f"{name} is {value}: more than 0")


def synthetic_prompts(words: int, count: int = 256, seed: int = 0) -> list[Messages]:
    """``count`` different user messages of ``words`` words, the same for the same seed."""
    rng = random.Random(seed)
    return [[{"role": "user", "content": " ".join(rng.choice(_WORDS) for _ in range(words))}] for _ in range(count)]


def task_prompts(task: str, split: str | None = None) -> tuple[list[Messages], list[dict[str, Any]]]:
    """The prompts of a task's split (default: ``test``, else the last one), and its tools in OpenAI's form.

    Raises:
        TaskError: the task cannot be read.
        InputError: it has no such split, or no tools that all requests share.
    """
    loaded = load_task(task)
    name = split or ("test" if "test" in loaded.splits else list(loaded.splits)[-1])
    if name not in loaded.splits:
        raise InputError(f"task {loaded.name!r} has no split {name!r}; it has {', '.join(loaded.splits)}")
    if loaded.interface_kind == "declared":
        raise InputError(f"each request of {loaded.name!r} has tools of its own: give a task whose requests share them")
    return [openai_messages(e.messages) for e in loaded.splits[name]], [t.openai() for t in loaded.tools]


async def bench(
    options: BenchOptions,
    prompts: Sequence[Messages],
    *,
    tools: Sequence[dict[str, Any]] = (),
    api_key: str | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Fires and reports. Cancelled (Ctrl-C) while firing, it reports what it has, marked as interrupted; in the warm-up it ends.

    Raises:
        RequestError: the endpoint refuses the very first request.
        EngineError: the endpoint cannot be reached.
    """
    if not prompts:
        raise InputError("there are no prompts to send")
    async with Endpoint(options.url, api_key, timeout_s=options.timeout_s) as endpoint:
        model = await endpoint.model(options.model)
        bodies = await _accepted_bodies(endpoint, options, model, prompts, tools)
        warmup = options.concurrency if options.warmup is None else options.warmup
        if warmup:
            warming = _Run(endpoint, options, bodies, None)
            await warming.fire(warmup, None)
            if warming.interrupted:
                raise asyncio.CancelledError
        started_at, started_s = datetime.now(UTC), time.monotonic()
        run = _Run(endpoint, options, bodies, progress)
        requests = options.requests or (100 if options.duration_s is None else None)
        await run.fire(requests, options.duration_s)
        duration_s = time.monotonic() - started_s
    return build_report(
        run.shots,
        duration_s=duration_s,
        url=endpoint.url,
        model=model,
        started_at=started_at,
        options={k: v for k, v in asdict(options).items() if k not in ("url", "model")}
        | {"prompts": len(prompts), "tools": len(tools)},
        interrupted=run.interrupted,
        client=machine_facts(),
    )


async def _accepted_bodies(
    endpoint: Endpoint, options: BenchOptions, model: str, prompts: Sequence[Messages], tools: Sequence[dict[str, Any]]
) -> list[bytes]:
    """The bodies to send, in a form that the endpoint accepts: what it complains of is left out, as far as that can be."""
    wanted: dict[str, Any] = {"model": model, "temperature": 0}
    if options.max_tokens is not None:
        wanted["max_tokens"] = options.max_tokens
    if tools:
        wanted["tools"] = list(tools)
    if options.stream:
        wanted |= {"stream": True, "stream_options": {"include_usage": True}}
    fields: dict[str, Any] | None = wanted
    refusal: str | None = None
    while fields is not None:
        bodies = [json.dumps(fields | {"messages": messages}, ensure_ascii=False).encode() for messages in prompts]
        refusal = await endpoint.refusal(bodies[0])
        if refusal is None:
            return bodies
        fields = _milder(fields, refusal)
    raise RequestError(f"{endpoint.url} refuses the first request: {refusal}")


def _milder(fields: dict[str, Any], refusal: str) -> dict[str, Any] | None:
    """``fields`` without what a refusal names, or under the name it asks for; ``None`` when there is nothing to leave out."""
    if "max_tokens" in fields and "max_completion_tokens" in refusal:
        rest = {k: v for k, v in fields.items() if k != "max_tokens"}
        return rest | {"max_completion_tokens": fields["max_tokens"]}
    named = [k for k in ("temperature", "stream_options") if k in fields and k in refusal]
    if not named and "stream_options" in fields and refusal.startswith(("400", "422")):
        named = ["stream_options"]  # not every endpoint says what it does not know
    return {k: v for k, v in fields.items() if k not in named} if named else None


class _Run:
    """One round of shots."""

    def __init__(self, endpoint: Endpoint, options: BenchOptions, bodies: Sequence[bytes], progress: Progress | None) -> None:
        self.shots: list[Shot] = []
        self.interrupted = False
        self._endpoint = endpoint
        self._options = options
        self._bodies = itertools.cycle(bodies)
        self._progress = progress
        self._began_s = time.monotonic()

    async def fire(self, requests: int | None, duration_s: float | None) -> None:
        """Fires until ``requests`` are sent or ``duration_s`` is over, and waits for the answers."""
        self._began_s = began_s = time.monotonic()
        end_s = began_s + duration_s if duration_s is not None else None
        numbers = itertools.count() if requests is None else iter(range(requests))
        try:
            async with asyncio.TaskGroup() as group:
                if self._options.rate is not None:
                    async for due_s in self._arrivals(numbers, end_s):
                        group.create_task(self._one(due_s, requests, duration_s))
                else:
                    for _ in range(self._options.concurrency):
                        group.create_task(self._worker(numbers, end_s, requests, duration_s))
        except asyncio.CancelledError:
            self.interrupted = True
            if not self.shots:
                raise

    async def _worker(self, numbers: Iterator[int], end_s: float | None, requests: int | None, duration_s: float | None) -> None:
        for _ in numbers:
            if end_s is not None and time.monotonic() >= end_s:
                return
            await self._one(time.monotonic(), requests, duration_s)

    async def _arrivals(self, numbers: Iterator[int], end_s: float | None) -> AsyncIterator[float]:
        rng = random.Random(self._options.seed)
        due_s = time.monotonic()
        for _ in numbers:
            if end_s is not None and due_s >= end_s:
                return
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            yield due_s
            due_s += rng.expovariate(self._options.rate or 1.0)

    async def _one(self, due_s: float, requests: int | None, duration_s: float | None) -> None:
        shot = await self._endpoint.shoot(next(self._bodies), stream=self._options.stream, due_s=due_s)
        self.shots.append(shot)
        if self._progress is not None:
            spent_s = time.monotonic() - self._began_s
            failed = sum(1 for s in self.shots[-200:] if s.error is not None)
            remark = f"{len(self.shots) / max(spent_s, 1e-9):.1f} requests/s" + (
                f", {failed} of the last 200 failed" if failed else ""
            )
            if requests is not None:
                self._progress(len(self.shots), requests, remark)
            elif duration_s is not None:
                self._progress(min(int(spent_s), int(duration_s)), max(1, int(duration_s)), remark)
