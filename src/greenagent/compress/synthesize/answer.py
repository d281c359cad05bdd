"""A teacher asked through the engine that serves it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from greenagent.compress.classify.candidate import Classifier
from greenagent.compress.load import load_candidate
from greenagent.compress.run import Run
from greenagent.compress.synthesize.gather import gather
from greenagent.core.calls import ToolCall
from greenagent.core.errors import RecipeError
from greenagent.core.interface import Interface
from greenagent.engines.worker import WorkerClient
from greenagent.tasks import Example
from greenagent.tasks.evaluate import EngineAnswerer

__all__ = ["BATCH", "answers", "served_teacher"]

BATCH = 64
"""Requests that a teacher or a writer works on at once."""


async def answers(teacher: Path, examples: Sequence[Example], run: Run, interface: Interface) -> list[list[ToolCall] | None]:
    """The teacher's calls for each example; ``None`` where its answer is not valid. Kept in the step's folder as they come.

    ``interface``: how the teacher is talked to.
    """
    client = await WorkerClient.start(teacher, max_batch=BATCH)
    answerer = EngineAnswerer(client, interface)

    async def ask(example: Example) -> list[dict[str, Any]] | None:
        calls = (await answerer.answer(example)).calls
        return None if calls is None else [call.model_dump() for call in calls]

    def progress(done: int, total: int) -> None:
        run.progress("the teacher answers", done, total, "")

    try:
        found = await gather(examples, ask, run.step_dir / "answered.jsonl", progress)
    finally:
        await client.aclose()
    return [None if calls is None else [ToolCall.model_validate(call) for call in calls] for calls in found]


def served_teacher(name: str, run: Run) -> Path:
    """The teacher's file for the engine: the one that its step or its directory has, else an F16 made of its weights.

    Raises `RecipeError` for a classifier.
    """
    weights = run.teacher(name)
    if found := sorted((weights.parent if name in run.saved else weights).glob("model-*.gguf")):
        return found[0]
    teacher = load_candidate(str(weights))
    if isinstance(teacher, Classifier):
        raise RecipeError(f"the teacher {name!r} chooses and writes no answers: take a language model")
    folder = run.step_dir / "teacher"  # of its own: what lies beside the candidate is taken for the candidate's
    folder.mkdir(exist_ok=True)
    return teacher.export(folder, "teacher")[1]
