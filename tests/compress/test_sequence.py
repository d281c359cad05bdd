"""Sequence-level distillation: the student learns what its teacher answers, not what the labels say."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from greenagent.compress.classify.encoder.candidate import load_encoder
from greenagent.compress.distill.sequence import answered_by
from greenagent.compress.distill.step import Distill
from greenagent.compress.load import load_candidate
from greenagent.compress.pipeline import build_run, compress, load_training_task
from greenagent.compress.recipe import Recipe
from greenagent.compress.run import Run
from greenagent.compress.synthesize.answer import served_teacher
from greenagent.compress.teachers import check_teachers
from greenagent.core.calls import ToolCall
from greenagent.core.engine import EngineRequest, TokenEvent
from greenagent.core.errors import EngineError, ModelError, RecipeError
from greenagent.engines.worker import WorkerClient
from greenagent.tasks import load_task

TRAINING = {"batch_size": 8, "learning_rate": 3e-3}
OTHER = {"red": "blue", "blue": "red", "green": "black", "black": "green"}


def quiet(*_: object) -> None:
    """No progress."""


@pytest.fixture
def run(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> Run:
    recipe = Recipe.model_validate({"name": "x", "model": str(tiny_dir), "task": str(task_dir), "steps": [{"fine_tune": {}}]})
    made = build_run(recipe, load_training_task(recipe), tmp_path / "work", quiet, quiet)
    made.step_dir = tmp_path / "work" / "01-distill"
    made.step_dir.mkdir(parents=True)
    return made


class Contrary:
    """Answers every request with the other colour, and those for green with no valid answer."""

    asked = 0

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenEvent]:
        self.asked += 1
        colour = (request.prompt or "").split()[-1]
        text = "paint it" if colour == "green" else f"paint {OTHER[colour]}"
        yield TokenEvent(request_id=request.request_id, text=text, finish_reason="stop")

    async def aclose(self) -> None:
        """Nothing to close."""


@pytest.fixture
def contrary(tiny_dir: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contrary:
    """The teacher ``contrary`` of ``run``, which has a file for an engine."""
    client = Contrary()

    async def start(*_: object, **__: object) -> Contrary:
        return client

    (tmp_path / "model-Q8_0.gguf").touch()
    run.saved["contrary"] = tmp_path / "candidate"
    monkeypatch.setattr(WorkerClient, "start", start)
    return client


def test_the_teachers_answers_take_the_labels_place(run: Run, contrary: Contrary) -> None:
    red = [e for e in run.fit if e.expected[0].name == "paint_red"][:5]
    as_it = [e.model_copy(update={"expected": [ToolCall(name="paint_blue", arguments={})]}) for e in red]  # labelled as it says
    examples = [*run.fit, *as_it]
    taught = answered_by("contrary", examples, run)
    assert [e.id for e in taught] == [e.id for e in examples if e.expected[0].name != "paint_green"]
    assert {(e.messages[-1].content or "").split()[-1]: e.expected[0].name for e in taught} == {
        colour: f"paint_{OTHER[colour]}" for colour in ("red", "blue", "black")
    }
    assert run.notes == {"teacher_answers": len(taught), "teacher_agrees_with_labels": round(5 / len(taught), 4)}
    assert contrary.asked == len(examples)
    assert answered_by("contrary", examples, run) == taught
    assert contrary.asked == len(examples)  # what was answered before a crash is not asked again


def test_a_teacher_is_read_as_it_is_talked_to(run: Run, contrary: Contrary) -> None:
    run.spoken["contrary"] = run.interface
    run.interface = run.interface.model_copy(update={"codes": ["a", "b", "c", "d", "e"][: len(run.interface.choices)]})
    taught = answered_by("contrary", [e for e in run.fit if e.expected[0].name == "paint_red"], run)
    assert {e.expected[0].name for e in taught} == {"paint_blue"}
    assert {e.answer(run.interface) for e in taught} <= set(run.interface.codes or [])  # what the student is to write


def test_a_teacher_without_a_valid_answer_is_an_error(run: Run, contrary: Contrary) -> None:
    with pytest.raises(EngineError, match="'contrary' gave no valid answer to any of"):
        answered_by("contrary", [e for e in run.fit if e.expected[0].name == "paint_green"], run)


def test_who_cannot_answer_is_said(run: Run, bert_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes those of one teacher; here are 2"):
        Distill(teacher=["a", "b"], answers="teacher")
    chooser = tmp_path / "chooser"
    load_encoder(str(bert_dir), run.interface).save(chooser)
    with pytest.raises(RecipeError, match="chooses and writes no answers"):
        Distill(teacher=str(chooser), answers="teacher", alpha=0).apply(load_candidate(run.base), run)


def test_a_file_made_for_the_teachers_engine_is_not_taken_for_the_candidates(run: Run) -> None:
    made = served_teacher(run.base, run)
    assert made.is_file()
    assert made.parent.parent == run.step_dir
    assert not list(run.step_dir.glob("model-*"))  # what a restart takes for files of the candidate


def test_whole_answers_are_learnt_across_vocabularies(run: Run, tiny_dir: Path, tmp_path: Path) -> None:
    teacher = shutil.copytree(tiny_dir, tmp_path / "teacher")
    words = json.loads((teacher / "tokenizer.json").read_text())
    merges = words["model"]["merges"]
    token = next(token for token in reversed(words["model"]["vocab"]) if not any(token in merge for merge in merges))
    words["model"]["vocab"]["<strange>"] = words["model"]["vocab"].pop(token)
    words["model"]["merges"] = [merge for merge in merges if "".join(merge) != token]
    (teacher / "tokenizer.json").write_text(json.dumps(words))
    check_teachers(run, [("distill", Distill(teacher=str(teacher), answers="teacher", alpha=0))])
    with pytest.raises(ModelError, match="vocabularies do not map"):
        check_teachers(run, [("distill", Distill(teacher=str(teacher), answers="teacher"))])


@pytest.fixture(scope="module")
def contrary_dir(tiny_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of the same choices that has learnt to answer each request with the other colour."""
    task = tmp_path_factory.mktemp("contrary") / "task"
    task.mkdir()
    for split in ("train", "val"):
        rows = [json.loads(line) for line in (task_dir / f"{split}.jsonl").read_text().splitlines()]
        turned = [{**row, "intent": f"paint_{OTHER[row['intent'].removeprefix('paint_')]}"} for row in rows]
        (task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    steps = [{"fine_tune": {**TRAINING, "epochs": 6}}]
    recipe = Recipe.model_validate({"name": "contrary", "model": str(tiny_dir), "task": str(task), "steps": steps})
    card = compress(recipe, task.parent / "teacher", progress=quiet, say=quiet, gains=False)
    assert card.quality[0].accuracy > 0.9
    return task.parent / "teacher"


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_student_answers_as_its_teacher_does(alpha: float, run: Run, contrary_dir: Path, task_dir: Path) -> None:
    step = Distill(teacher=str(contrary_dir), answers="teacher", alpha=alpha, epochs=6, batch_size=8, learning_rate=3e-3)
    student = step.apply(load_candidate(run.base), run)
    val = load_task(task_dir).splits["val"]
    as_teacher = [
        e.model_copy(update={"expected": [ToolCall(name=f"paint_{OTHER[e.expected[0].name[6:]]}", arguments={})]}) for e in val
    ]
    assert sum(student.answers_exactly(as_teacher, run.interface)) > 0.9 * len(val)
    assert not any(student.answers_exactly(val, run.interface)[:4])
    assert run.notes["teacher_agrees_with_labels"] < 0.1
    assert any(run.work.rglob("teacher-signals")) == (alpha > 0)  # what has no weight is not computed
