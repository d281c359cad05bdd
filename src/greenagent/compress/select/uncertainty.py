"""How unsure the teacher is of each request: what it is sure of, a student learns from few examples."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from greenagent.compress.candidate import Candidate
from greenagent.compress.classify.candidate import Classifier
from greenagent.compress.run import Run
from greenagent.compress.synthesize.answer import BATCH, served_teacher
from greenagent.compress.synthesize.gather import gather
from greenagent.core.engine import EngineRequest
from greenagent.core.errors import RequestError
from greenagent.engines.worker import WorkerClient

__all__ = ["uncertainties"]


def uncertainties(name: str, teacher: Candidate, prompts: Sequence[str], run: Run) -> NDArray[np.float64]:
    """For each of ``prompts``, in nats: of the teacher called ``name``, loaded as ``teacher``.

    A classifier's is the entropy of its calibrated choices; a language model's the mean negative log-probability of the tokens
    of its own greedy answer, given by the engine and kept on disk one by one; not a number for a prompt that is too long.
    """
    if isinstance(teacher, Classifier):
        read = [number for number, prompt in enumerate(prompts) if teacher.reads(prompt)]
        doubts = np.full(len(prompts), np.nan)
        if read:
            doubts[read] = _entropies(teacher.score([prompts[number] for number in read]) / teacher.temperature)
        return doubts
    return np.array(asyncio.run(_own_doubt(served_teacher(name, run), prompts, run)), dtype=np.float64)


def _entropies(logits: torch.Tensor) -> NDArray[np.float64]:
    log_probs = logits.double().log_softmax(-1)
    return np.asarray(-(log_probs.exp() * log_probs).sum(-1).numpy())


async def _own_doubt(teacher: Path, prompts: Sequence[str], run: Run) -> list[float | None]:
    client = await WorkerClient.start(teacher, max_batch=BATCH)
    most = run.interface.max_answer_tokens

    async def ask(job: tuple[int, str]) -> float | None:
        number, prompt = job
        request = EngineRequest(request_id=f"doubt-{number}", prompt=prompt, max_tokens=most, logprobs=True, stream=False)
        try:
            logs = [value async for event in client.generate(request) for value in event.logprobs]
        except RequestError:
            return None
        return -sum(logs) / len(logs) if logs else None

    def progress(done: int, total: int) -> None:
        run.progress("asking how sure the teacher is", done, total, "")

    try:
        return await gather(list(enumerate(prompts)), ask, run.step_dir / "uncertainty.jsonl", progress)
    finally:
        await client.aclose()
