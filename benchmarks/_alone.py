"""A model without a server around it: how to answer prompts, batch after batch, and what that costs in a process of its own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _common import PASSIVE, progress

from greenagent.core.engine import EngineRequest
from greenagent.core.errors import EngineError, ModelError
from greenagent.core.interface import Interface
from greenagent.core.records import ModelCard
from greenagent.engines.base import EngineSettings
from greenagent.engines.models import load_card
from greenagent.engines.registry import create_engine
from greenagent.measure.meter import Meter
from greenagent.measure.sensors import discover
from greenagent.tasks import Example
from greenagent.tasks.score import is_right, wilson_interval

_WARM_UP_BATCHES = 2

Generate = Callable[[Sequence[str]], list[tuple[str, int, int]]]
"""Prompts to (answer, prompt tokens, generated tokens), in the same order."""


def card_of(directory: Path) -> ModelCard:
    """:raises ModelError: the directory holds no card of a specialised model."""
    card = load_card(directory)
    if card is None or card.interface.kind == "chat":
        raise ModelError(f"{directory} needs a card.json of a specialised model: its interface makes the prompts")
    return card


def weights_of(directory: Path) -> str:
    """Which weights a model directory holds: the beginning of their hash on its card.

    :raises ModelError: there is no card, or it names no safetensors.
    """
    for file in card_of(directory).files:
        if file.path.endswith(".safetensors"):
            return file.sha256[:16]
    raise ModelError(f"{directory / 'card.json'} names no safetensors")


def environment(threads: int) -> dict[str, str]:
    """This process' environment with sleeping waits and ``threads`` threads for every thread pool that reads one."""
    count = str(threads)
    return {**os.environ, **PASSIVE, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "TOKENIZERS_PARALLELISM": "false"}


def run_script(script: str, words: Sequence[str], threads: int) -> str:
    """What a script of this folder writes to stdout, in a process of its own whose waiting threads sleep.

    :raises EngineError: that process failed; its own error is on stderr.
    """
    command = [sys.executable, str(Path(__file__).with_name(script)), *words]
    ran = subprocess.run(command, env=environment(threads), stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        raise EngineError(f"{script} {' '.join(words[:2])} ended with exit code {ran.returncode}; its error is above")
    return ran.stdout


def run_for_figures(script: str, words: Sequence[str], threads: int) -> dict[str, Any]:
    """The JSON in its last line (libraries may write lines of their own before). Errors: those of `run_script`."""
    found: dict[str, Any] = json.loads(run_script(script, words, threads).splitlines()[-1])
    return found


def batches(prompts: Sequence[str], size: int) -> list[list[int]]:
    """Indices of prompts of like length, ``size`` at a time."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    return [order[i : i + size] for i in range(0, len(order), size)]


def answer_all(generate: Generate, prompts: Sequence[str], size: int, title: str) -> list[tuple[str, int, int]]:
    """Every prompt's answer, in the prompts' order."""
    answers: dict[int, tuple[str, int, int]] = {}
    update = progress(title)
    for picked in batches(prompts, size):
        answers.update(zip(picked, generate([prompts[i] for i in picked]), strict=True))
        update(len(answers), len(prompts))
    return [answers[i] for i in range(len(prompts))]


def score(interface: Interface, examples: Sequence[Example], texts: Sequence[str]) -> int:
    """How many answers are exactly right; one that is not valid is wrong."""
    read = [e.bound(interface).parse_answer(text) for e, text in zip(examples, texts, strict=True)]
    return sum(calls is not None and is_right("exact_call", e, calls) for e, calls in zip(examples, read, strict=True))


def measure_alone(
    generate: Generate, interface: Interface, examples: Sequence[Example], batch: int, title: str, *, repeat: int = 1
) -> dict[str, Any]:
    """Warms up, then measures this process from the first prompt to the last answer (tokenising, running, reading).

    The platform's idle floor of that time is in the joules. With ``repeat`` the examples are asked that many times over.
    """
    prompts = [e.prompt(interface) for e in examples]
    timed = Timed(generate)
    answer_all(timed, prompts[: _WARM_UP_BATCHES * batch], batch, "warm-up")
    timed.seconds.clear()
    with Meter(discover()) as meter:
        cpu_s = time.process_time()
        with meter.window("answers") as window:
            for _ in range(repeat):
                answers = answer_all(timed, prompts, batch, title)
        cpu_s = time.process_time() - cpu_s
        energy_j, floor_j, wall_s, provenance = window.energy_j, window.floor_j, window.duration_s, window.provenance
    correct = score(interface, examples, [text for text, _, _ in answers])
    low, high = wilson_interval(correct, len(examples))
    generated = sum(count for _, _, count in answers)
    per_correct_j = energy_j / repeat / correct if correct else None
    return {
        "accuracy": correct / len(examples),
        "low": low,
        "high": high,
        "correct": correct,
        "examples": len(examples),
        "energy_j": energy_j / repeat,
        "floor_j": None if floor_j is None else floor_j / repeat,
        "cpu_s": cpu_s / repeat,
        "wall_s": wall_s / repeat,
        "batch_p50_s": statistics.median(timed.seconds),
        "prompt_tokens": sum(count for _, count, _ in answers),
        "generated_tokens": generated,
        "tokens_per_s": generated * repeat / wall_s,
        "j_per_correct_engine": per_correct_j,
        "j_per_correct_total": per_correct_j,
        "provenance": provenance.model_dump(),
    }


class Timed:
    """A way to answer that keeps how long each batch took, in seconds."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate
        self.seconds: list[float] = []

    def __call__(self, prompts: Sequence[str]) -> list[tuple[str, int, int]]:
        began_s = time.monotonic()
        answers = self._generate(prompts)
        self.seconds.append(time.monotonic() - began_s)
        return answers


def engine_generate(directory: Path, engine: str, threads: int, batch: int) -> Generate:
    """An engine of ours: a batch goes in together, and is stepped until its last answer has ended."""
    opened = create_engine(engine, str(directory), EngineSettings(threads=threads, max_batch=batch))
    most = card_of(directory).interface.max_answer_tokens

    def generate(prompts: Sequence[str]) -> list[tuple[str, int, int]]:
        for number, prompt in enumerate(prompts):
            opened.submit(EngineRequest(request_id=str(number), prompt=prompt, max_tokens=most, stream=False))
        answers = {}
        while opened.has_work():
            for event in opened.step():
                if event.error:
                    raise EngineError(f"a request failed in the engine: {event.error}")
                answers[int(event.request_id)] = event.text, event.prompt_tokens or 0, event.generated_tokens or 0
        return [answers[number] for number in range(len(prompts))]

    return generate
