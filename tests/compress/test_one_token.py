"""Answers of one token: which tokens, who teaches them, and that engine and gateway read them back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from greenagent.compress.codes import codes_for
from greenagent.compress.language import load_tokenizer
from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe
from greenagent.core.calls import ToolCall
from greenagent.core.engine import EngineRequest, Grammar
from greenagent.core.errors import RecipeError
from greenagent.core.records import ModelCard
from greenagent.engines.worker import WorkerClient
from greenagent.tasks import load_task

from .served import quality_over_http

TRAIN = {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3}


def quiet(*_: object) -> None:
    """No progress."""


def made(out: Path, model: Path, task: str, *steps: dict[str, Any]) -> ModelCard:
    recipe = Recipe.model_validate({"name": "x", "model": str(model), "task": task, "steps": steps})
    return compress(recipe, out, restart=True, progress=quiet, say=quiet, gains=False)


@pytest.fixture(scope="module")
def student(tiny_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard]:
    out = tmp_path_factory.mktemp("codes") / "student"
    steps = [
        {"fine_tune": {**TRAIN, "save_as": "teacher"}},
        {"one_token": {}},
        {"distill": {**TRAIN, "teacher": "teacher"}},
        {"quantize": {"format": "Q8_0"}},
    ]
    return out, made(out, tiny_dir, str(task_dir), *steps)


def test_every_choice_has_a_token_of_its_own(tiny_dir: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_dir))
    choices = ["play music", "play video", "stop", "none"]
    codes = codes_for(choices, tokenizer)
    assert list(codes) == choices
    assert len(set(codes.values())) == 4
    assert all(len(tokenizer(code, add_special_tokens=False).input_ids) == 1 for code in codes.values())
    with pytest.raises(RecipeError, match="has words for"):
        codes_for([f"choice {i}" for i in range(100_000)], tokenizer)


def test_a_teacher_that_spells_labels_teaches_a_student_of_one_token(student: tuple[Path, ModelCard]) -> None:
    out, card = student
    interface = card.interface
    assert interface.codes is not None
    assert len(set(interface.codes)) == len(interface.choices)
    teacher = ModelCard.model_validate_json((out / "teacher" / "card.json").read_text())
    assert teacher.interface.codes is None
    assert card.quality[0].accuracy > 0.8
    assert teacher.quality[0].accuracy > 0.8
    assert card.agreement["against_served"]["sequence_agreement"] > 0.9
    for call in ([ToolCall(name=interface.tools[1].name)], []):
        assert interface.parse_answer(f" {interface.render_answer(call)}\n") == call
    assert interface.parse_answer(interface.labels[0]) in (None, [ToolCall(name=interface.tools[0].name)])


async def test_the_engine_stops_behind_the_token_under_a_grammar_too(student: tuple[Path, ModelCard], task_dir: Path) -> None:
    out, card = student
    interface, examples = card.interface, load_task(task_dir).splits["val"][:20]
    codes = interface.codes or []

    async def ask(client: WorkerClient, number: int, grammar: Grammar | None) -> str:
        prompt = interface.render_prompt(examples[number].messages)
        request = EngineRequest(request_id=f"{number}", prompt=prompt, max_tokens=8, grammar=grammar, stream=False)
        (event,) = [event async for event in client.generate(request)]
        assert (event.generated_tokens, event.finish_reason) == (1, "stop")
        return event.text

    async with await WorkerClient.start(out) as client:
        free = await asyncio.gather(*(ask(client, n, None) for n in range(20)))
        assert sum(interface.parse_answer(text) == e.expected for text, e in zip(free, examples, strict=True)) > 15
        for code in codes:
            assert await ask(client, 0, Grammar.one_of([code])) == code


def test_clients_of_the_gateway_see_no_difference(student: tuple[Path, ModelCard], task_dir: Path, tmp_path: Path) -> None:
    out, card = student
    quality = quality_over_http(out, card, task_dir, tmp_path / "ledger.db")
    assert quality.accuracy > 0.8


def test_only_choices_have_answers_of_one_token(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be one token"):
        made(tmp_path / "x", tiny_dir, "assistant", {"one_token": {}})
    with pytest.raises(RecipeError, match="one token each already"):
        made(tmp_path / "x", tiny_dir, str(task_dir), {"one_token": {}}, {"one_token": {}})
    steps = [{"fine_tune": {**TRAIN, "epochs": 1, "save_as": "teacher"}}, {"one_token": {}}]
    with pytest.raises(RecipeError, match="on_policy"):
        made(tmp_path / "x", tiny_dir, str(task_dir), *steps, {"distill": {"teacher": "teacher", "on_policy": 0.5}})
