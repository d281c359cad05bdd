"""``synthesize``: writes more training requests and has the teacher answer them. The candidate stays as it is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from greenagent.compress.candidate import Candidate
from greenagent.compress.load import load_candidate
from greenagent.compress.run import SYNTHETIC_FILE, Run, StepOptions, require_teacher
from greenagent.compress.synthesize.gather import gather
from greenagent.compress.synthesize.label import answer_name, asking, capped, labelled
from greenagent.compress.synthesize.write import continuations, new_requests, normalised
from greenagent.core.atomic import write_text
from greenagent.core.calls import ToolCall
from greenagent.core.engine import EngineRequest
from greenagent.core.errors import EngineError, RequestError
from greenagent.engines.worker import WorkerClient
from greenagent.tasks import Example
from greenagent.tasks.evaluate import EngineAnswerer

__all__ = ["Synthesize"]

_BATCH = 64
_MOST = 2.0  # times as many as if all answers were equally common


class Synthesize(StepOptions):
    """``writer`` continues ``lists`` of requests of one answer each; ``teacher`` labels what is new.

    Later steps train on the result when they say ``synthetic``. Requests that a held-out split has are left out.
    """

    teacher: str = Field(description="who answers: a name given by save_as in an earlier step, or a model directory")
    writer: str = Field(default="embedded", description="who writes: a general language model, as `greenagent serve` takes it")
    lists: int = Field(default=2000, ge=1, description="how many lists are continued, by about three requests each")
    shots: int = Field(default=8, ge=1, description="requests a list begins with")
    temperatures: list[Annotated[float, Field(gt=0)]] = Field(
        default=[0.7, 0.8, 0.9], min_length=1, description="of sampling, taking turns"
    )
    max_tokens: int = Field(default=64, ge=8, description="how far a list is continued")

    @property
    def teachers(self) -> list[str]:
        return [self.teacher]

    def check(self, earlier: Sequence[StepOptions]) -> None:
        require_teacher(self.teacher, earlier)

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Writes ``synthetic.jsonl`` into the step's folder; what was written before a crash is not written again."""
        teacher = _served(self.teacher, run)
        written = asyncio.run(self._write(run))
        known = {normalised(e.messages[-1].content or "") for e in [*run.fit, *run.select, *run.held_out]}
        requests = new_requests(written, known)
        examples = asking(requests)
        answers = asyncio.run(_answer(teacher, examples, run))
        usable = labelled(examples, answers, run.interface.tools)
        kinds = {answer_name(example.expected) for example in run.fit}
        kept = capped(usable, math.ceil(_MOST * len(requests) / len(kinds)), run.seed)
        if not kept:
            raise EngineError(
                f"none of {len(written)} continued lists gave a usable request: is {self.writer!r} a language model?"
            )
        write_text(run.step_dir / SYNTHETIC_FILE, "".join(f"{example.model_dump_json()}\n" for example in kept))
        run.notes.update(lists=len(written), requests=len(requests), usable=len(usable), kept=len(kept))
        run.say(f"synthesize: {len(kept)} examples, for instance {kept[0].messages[-1].content!r}")
        return candidate

    async def _write(self, run: Run) -> list[str]:
        lists = continuations(
            run.fit,
            self.lists,
            shots=self.shots,
            temperatures=self.temperatures,
            max_tokens=self.max_tokens,
            seed=run.seed,
        )
        client = await WorkerClient.start(self.writer, max_batch=_BATCH)

        async def ask(request: EngineRequest) -> str:
            try:
                return "".join([event.text async for event in client.generate(request)])
            except RequestError:  # a list of requests too long for the writer
                return ""

        try:
            return await gather(lists, ask, run.step_dir / "written.jsonl", _shown(run, "writing requests"))
        finally:
            await client.aclose()


async def _answer(teacher: Path, examples: list[Example], run: Run) -> list[list[ToolCall] | None]:
    client = await WorkerClient.start(teacher, max_batch=_BATCH)
    answerer = EngineAnswerer(client, run.interface)

    async def ask(example: Example) -> list[dict[str, Any]] | None:
        calls = (await answerer.answer(example)).calls
        return None if calls is None else [call.model_dump() for call in calls]

    try:
        found = await gather(examples, ask, run.step_dir / "answered.jsonl", _shown(run, "the teacher answers"))
    finally:
        await client.aclose()
    return [None if calls is None else [ToolCall.model_validate(call) for call in calls] for calls in found]


def _served(name: str, run: Run) -> Path:
    """The teacher's file for the engine: the one that its step or its directory has, else an F16 made of its weights."""
    weights = run.teacher(name)
    if found := sorted((weights.parent if name in run.saved else weights).glob("model-*.gguf")):
        return found[0]
    return load_candidate(str(weights)).export(run.step_dir, "teacher")[1]


def _shown(run: Run, title: str) -> Any:
    return lambda done, total: run.progress(title, done, total, "")
