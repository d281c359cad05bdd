"""``synthesize``: more training requests, written by a model or read from a file, which the teacher answers.

The candidate stays as it is.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from greenagent.compress.candidate import Candidate
from greenagent.compress.run import SYNTHETIC_FILE, Run, StepOptions, require_teacher
from greenagent.compress.synthesize.answer import BATCH, answers, served_teacher
from greenagent.compress.synthesize.gather import gather
from greenagent.compress.synthesize.label import answer_name, asking, capped, labelled
from greenagent.compress.synthesize.requests import read_requests
from greenagent.compress.synthesize.write import continuations, new_requests, normalised, unknown
from greenagent.core.atomic import write_text
from greenagent.core.engine import EngineRequest
from greenagent.core.errors import EngineError, RecipeError, RequestError
from greenagent.engines.worker import WorkerClient
from greenagent.tasks import Example

__all__ = ["Synthesize"]

_MOST = 2.0  # times as many as if all answers were equally common


class Synthesize(StepOptions):
    """``writer`` continues ``lists`` of requests of one answer each; ``teacher`` labels what is new, and the ``unlabelled`` file.

    Later steps train on the result when they say ``synthetic``. Requests that a held-out split has are left out.
    """

    teacher: str = Field(description="who answers: a name given by save_as in an earlier step, or a model directory")
    writer: str = Field(default="embedded", description="who writes: a general language model, as `greenagent serve` takes it")
    lists: int = Field(default=2000, ge=0, description="how many lists are continued, by about three requests each")
    shots: int = Field(default=8, ge=1, description="requests a list begins with")
    temperatures: list[Annotated[float, Field(gt=0)]] = Field(
        default=[0.7, 0.8, 0.9], min_length=1, description="of sampling, taking turns"
    )
    max_tokens: int = Field(default=64, ge=8, description="how far a list is continued")
    outside: float | None = Field(
        default=None, ge=0, lt=1, description="share of the lists that no tool fits; else these take turns like any answer"
    )
    unlabelled: str | None = Field(
        default=None, description="a file of requests without answers: .jsonl lines with `text`, or plain lines; all are answered"
    )

    @model_validator(mode="after")
    def _has_requests(self) -> Synthesize:
        if not (self.lists or self.unlabelled):
            raise ValueError("synthesize: there is nothing to answer: say lists, or unlabelled")
        return self

    @property
    def teachers(self) -> list[str]:
        return [self.teacher]

    def check(self, earlier: Sequence[StepOptions]) -> None:
        require_teacher(self.teacher, earlier)
        if self.unlabelled and not Path(self.unlabelled).is_file():
            raise RecipeError(f"unlabelled: no file {self.unlabelled!r}")

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Writes ``synthetic.jsonl`` into the step's folder; what was read, written or answered before a crash is not again."""
        if run.interface.kind == "declared":
            raise RecipeError("synthesize: new requests need tools that all requests share; here each example has its own")
        teacher = served_teacher(self.teacher, run)
        found, written = self._requests(run)
        asked = [*asking(found, "unlabelled"), *asking(written)]
        given = asyncio.run(answers(teacher, asked, run, run.speaks(self.teacher)))
        real = labelled(asked[: len(found)], given[: len(found)], run.interface.tools)
        usable = labelled(asked[len(found) :], given[len(found) :], run.interface.tools)
        kept = [*real, *self._capped(usable, len(written), run)]
        if not kept:
            raise EngineError(
                f"none of {self.lists} continued lists and {len(found)} unlabelled requests gave a usable example: "
                f"is {self.writer!r} a language model, and {self.teacher!r} a teacher of this task?"
            )
        write_text(run.step_dir / SYNTHETIC_FILE, "".join(f"{example.model_dump_json()}\n" for example in kept))
        run.notes.update(
            lists=self.lists, unlabelled=len(found), requests=len(asked), usable=len(real) + len(usable), kept=len(kept)
        )
        run.say(f"synthesize: {len(kept)} examples, for instance {kept[0].messages[-1].content!r}")
        return candidate

    def _capped(self, usable: Sequence[Example], written: int, run: Run) -> list[Example]:
        """No answer much commoner than it was asked for."""
        kinds = {answer_name(example.expected) for example in run.fit}
        outside = None if self.outside is None else math.ceil(_MOST * self.outside * written)
        return capped(usable, math.ceil(_MOST * written / len(kinds)), run.seed, outside)

    def _requests(self, run: Run) -> tuple[list[str], list[str]]:
        """The unlabelled file's new requests and the written ones; those of an earlier start, whatever the file has now."""
        path = run.step_dir / "requests.json"
        if path.is_file():
            found, written = json.loads(path.read_text(encoding="utf-8"))
            return found, written
        known = {normalised(e.messages[-1].content or "") for e in [*run.fit, *run.select, *run.held_out]}
        found = unknown(read_requests(Path(self.unlabelled)), known) if self.unlabelled else []
        lists = asyncio.run(self._write(run)) if self.lists else []
        written = new_requests(lists, known | {normalised(text) for text in found})
        write_text(path, json.dumps([found, written]))
        return found, written

    async def _write(self, run: Run) -> list[str]:
        lists = continuations(
            run.fit,
            self.lists,
            shots=self.shots,
            temperatures=self.temperatures,
            max_tokens=self.max_tokens,
            seed=run.seed,
            outside=self.outside,
        )
        client = await WorkerClient.start(self.writer, max_batch=BATCH)

        async def ask(request: EngineRequest) -> str:
            try:
                return "".join([event.text async for event in client.generate(request)])
            except RequestError:  # a list of requests too long for the writer
                return ""

        def progress(done: int, total: int) -> None:
            run.progress("writing requests", done, total, "")

        try:
            return await gather(lists, ask, run.step_dir / "written.jsonl", progress)
        finally:
            await client.aclose()
