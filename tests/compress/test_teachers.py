"""Teachers that are directories: refused before anything is trained when they cannot teach the task; known by what they say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from greenagent.compress.classify.encoder.hidden import DistillHidden
from greenagent.compress.distill.step import Distill
from greenagent.compress.fine_tune import FineTune
from greenagent.compress.load import load_candidate
from greenagent.compress.pipeline import build_run, compress, load_training_task
from greenagent.compress.recipe import Recipe
from greenagent.compress.run import Run
from greenagent.compress.teachers import check_teachers
from greenagent.compress.work import work_directory
from greenagent.core.errors import ModelError, RecipeError
from greenagent.core.interface import Interface


def quiet(*_: object) -> None:
    """No progress."""


def recipe(model: Path, task: Path, *steps: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"name": "x", "model": str(model), "task": str(task), "steps": list(steps)})


@pytest.fixture
def run(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> Run:
    made = recipe(tiny_dir, task_dir, {"fine_tune": {}})
    return build_run(made, load_training_task(made), tmp_path, quiet, quiet)


def chooser(directory: Path, model: Path, choices: list[str]) -> Path:
    shutil.copytree(model, directory)
    config = json.loads((directory / "config.json").read_text())
    config["id2label"] = dict(enumerate(choices))
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("kind", ["distill", "distill_labels"])
def test_a_teacher_of_other_choices_is_refused_before_anything_is_trained(
    kind: str, run: Run, tiny_dir: Path, bert_dir: Path, task_dir: Path, tmp_path: Path
) -> None:
    choices = run.interface.choices
    for name, theirs, said in (
        ("fewer", choices[1:], f"'{choices[0]}' is known to one of them only"),
        ("turned", choices[::-1], "in another order"),
        ("nameless", [f"LABEL_{i}" for i in range(len(choices) - 1)], f"chooses among {len(choices) - 1} answers"),
    ):
        teacher = chooser(tmp_path / name, bert_dir, theirs)
        student = {"encoder": {"model": str(bert_dir)}} if kind == "distill_labels" else {"fine_tune": {}}
        made = recipe(tiny_dir, task_dir, {"fine_tune": {}}, student, {kind: {"teacher": str(teacher)}})
        with pytest.raises(ModelError, match=rf"step 3 \({kind}\): teacher .*{name}.*{said}"):
            compress(made, tmp_path / "out", progress=quiet, say=quiet, gains=False)
        assert not work_directory(tmp_path / "out").exists()


def test_a_teacher_whose_vocabulary_does_not_map_is_refused_before_anything_is_trained(
    tiny_dir: Path, task_dir: Path, tmp_path: Path
) -> None:
    teacher = shutil.copytree(tiny_dir, tmp_path / "teacher")
    path = teacher / "tokenizer.json"
    words = json.loads(path.read_text())
    token = next(
        token for token in reversed(words["model"]["vocab"]) if not any(token in merge for merge in words["model"]["merges"])
    )
    words["model"]["vocab"]["<strange>"] = words["model"]["vocab"].pop(token)
    words["model"]["merges"] = [merge for merge in words["model"]["merges"] if "".join(merge) != token]
    path.write_text(json.dumps(words))
    made = recipe(tiny_dir, task_dir, {"fine_tune": {}}, {"distill": {"teacher": str(teacher)}})
    with pytest.raises(ModelError, match=r"step 2 \(distill\): teacher .* vocabularies do not map"):
        compress(made, tmp_path / "out", progress=quiet, say=quiet, gains=False)


def test_a_teacher_that_cuts_the_same_tokens_otherwise_is_refused_before_anything_is_trained(
    tiny_dir: Path, task_dir: Path, tmp_path: Path
) -> None:
    teacher = shutil.copytree(tiny_dir, tmp_path / "teacher")
    words = json.loads((teacher / "tokenizer.json").read_text())
    words["model"]["merges"] = words["model"]["merges"][:9]
    (teacher / "tokenizer.json").write_text(json.dumps(words))
    made = recipe(tiny_dir, task_dir, {"fine_tune": {}}, {"distill": {"teacher": str(teacher)}})
    with pytest.raises(ModelError, match=r"step 2 \(distill\): teacher .* into different tokens"):
        compress(made, tmp_path / "out", progress=quiet, say=quiet, gains=False)


def test_a_teacher_of_hidden_states_needs_no_head_but_the_same_word_pieces(run: Run, bert_dir: Path, tmp_path: Path) -> None:
    """Whatever it chooses among: as most encoders that are passed around it may choose among nothing."""
    run.base = str(bert_dir)
    other = chooser(tmp_path / "other", bert_dir, ["yes", "no", "maybe"])
    for teacher in (bert_dir, other):
        check_teachers(run, [("fine_tune", FineTune()), ("distill_hidden", DistillHidden(teacher=str(teacher)))])
    words = (other / "tokenizer.json").read_text().replace('"room"', '"moor"')
    (other / "tokenizer.json").write_text(words)
    with pytest.raises(ModelError, match=r"step 1 \(distill_hidden\): teacher .* vocabularies do not map"):
        check_teachers(run, [("distill_hidden", DistillHidden(teacher=str(other)))])


def test_a_student_without_codes_cannot_learn_from_a_teacher_with_them(run: Run) -> None:
    spelt = run.interface.model_copy(update={"codes": [str(i) for i in range(len(run.interface.choices))]})
    run.spoken["teacher"] = spelt
    with pytest.raises(RecipeError, match="by one_token before"):
        Distill(teacher="teacher").apply(load_candidate(run.base), run)


def test_what_a_teacher_has_said_is_found_wherever_it_lies_and_never_for_another(
    run: Run, tiny_dir: Path, tmp_path: Path
) -> None:
    first, moved, other = (Path(shutil.copytree(tiny_dir, tmp_path / name)) for name in ("first", "moved", "other"))
    (other / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes()[:-1] + b"\x01")
    (moved / "README.md").write_text("moved")
    known = {name: run.remembers(run.known_as(str(tmp_path / name))) for name in ("first", "moved", "other")}
    assert known["first"] == known["moved"] != known["other"]
    run.spoken["first"] = Interface()
    run.saved["first"] = first
    assert run.remembers(run.known_as("first")) != known["first"]
