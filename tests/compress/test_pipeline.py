"""The whole recipe on a model of 200,000 parameters: real training, real pruning, the real engine."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe
from greenagent.compress.training.train import _last_whole
from greenagent.compress.work import work_directory
from greenagent.core.errors import EngineError, EnvironmentalError, InputError, ModelError, QualityError, RecipeError, TaskError
from greenagent.core.records import ModelCard

COLOURS = ("red", "green", "blue", "black")

STEPS: list[dict[str, dict[str, object] | None]] = [
    {"fine_tune": {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3}},
    {"quantize": {"format": "Q8_0", "save_as": "teacher"}},
    {"synthesize": {"teacher": "teacher", "lists": 8, "shots": 4}},
    {"prune": {"vocabulary": "task", "common_tokens": 300}},
    {"prune": {"depth": 2, "ffn": 64}},
    {
        "distill": {
            "teacher": "teacher",
            "epochs": 6,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "subword_dropout": 0.05,
            "synthetic": 1,
        }
    },
    {"quantize": {"format": "Q8_0"}},
]


Steps = list[dict[str, dict[str, object] | None]]


def recipe_for(tiny_dir: Path, task_dir: Path, steps: Steps = STEPS, **more: object) -> Recipe:
    return Recipe.model_validate({"name": "tiny", "model": str(tiny_dir), "task": str(task_dir), "steps": steps, **more})


def quiet(*_: object) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def made(tiny_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard, list[str]]:
    out = tmp_path_factory.mktemp("out") / "student"
    recorded: list[str] = []
    card = compress(
        recipe_for(tiny_dir, task_dir), out, zone="DE", progress=quiet, say=quiet, record=lambda name, _: recorded.append(name)
    )
    return out, card, recorded


def test_the_student_learnt_what_the_teacher_knows(made: tuple[Path, ModelCard, list[str]]) -> None:
    out, card, _ = made
    teacher = ModelCard.model_validate_json((out / "teacher" / "card.json").read_text())
    assert teacher.quality[0].accuracy >= 0.95
    assert card.quality[0].accuracy >= 0.95
    assert card.parameters < 0.7 * teacher.parameters


def test_every_step_is_on_the_card_with_its_joules(made: tuple[Path, ModelCard, list[str]]) -> None:
    _, card, recorded = made
    assert [s.step for s in card.steps] == ["fine_tune", "quantize", "synthesize", "prune", "prune", "distill", "quantize"]
    assert len(recorded) == 7
    for step in card.steps:
        assert step.energy.energy_j is not None
        assert step.energy.energy_j > 0
        assert step.energy.provenance is not None
        assert step.quality is not None
    assert card.energy.energy_j == pytest.approx(sum(s.energy.energy_j or 0 for s in card.steps))
    assert card.energy.zone == "DE"
    assert card.energy.carbon_g is not None


def test_every_step_says_what_it_gained_on_the_engine_and_its_peak_of_memory(made: tuple[Path, ModelCard, list[str]]) -> None:
    out, card, _ = made
    for step in card.steps:
        assert step.peak_rss_bytes is not None
        assert 50e6 < step.peak_rss_bytes < 50e9
        assert step.serving_before is not None
        assert step.serving_after is not None
        assert step.serving_after.request_s > 0
        energy = step.serving_after.energy
        assert energy.energy_j is not None
        assert energy.engine_j is not None
        assert 0 < energy.engine_j < energy.energy_j
    for earlier, later in itertools.pairwise(card.steps):
        assert later.serving_before == earlier.serving_after  # measured once
    before, after = card.steps[4].serving_before, card.steps[4].serving_after  # half the layers
    assert before is not None
    assert after is not None
    assert after.served_bytes < before.served_bytes
    assert (before.engine, after.engine) == ("openvino F16", "openvino F16")
    unchanged = card.steps[2]  # synthesize
    assert unchanged.serving_after == unchanged.serving_before
    last = card.steps[-1].serving_after
    assert last is not None
    assert (last.engine, last.served_bytes) == ("openvino Q8_0", card.served_bytes)
    requests = [step.serving_after.requests for step in card.steps if step.serving_after]
    assert all(count % 16 == 0 for count in requests)  # asked again while that is soon done
    assert {step.serving_after.examples for step in card.steps if step.serving_after} == {16}
    assert "Before and after each step: 16 requests" in (out / "README.md").read_text()


def test_a_step_that_writes_the_served_file_is_checked_as_served(made: tuple[Path, ModelCard, list[str]]) -> None:
    _, card, _ = made
    checked = [(step.step, step.quality.metric, step.quality.engine) for step in card.steps if step.quality]
    assert checked[0] == ("fine_tune", "exact_answer", "transformers bfloat16")
    assert checked[1] == checked[-1] == ("quantize", "exact_call", "openvino Q8_0")
    assert checked[5] == ("distill", "exact_answer", "transformers bfloat16")
    last = card.steps[-1].quality
    assert last is not None
    assert (last.examples, last.slices) == (16, {})


def test_the_card_holds_the_teachers_slices_and_when_it_has_paid_back(made: tuple[Path, ModelCard, list[str]]) -> None:
    out, card, _ = made
    teacher = ModelCard.model_validate_json((out / "teacher" / "card.json").read_text())
    assert teacher.payback is None
    assert card.teacher == "tiny-teacher"
    assert card.teacher_quality == teacher.quality
    assert card.teacher_quality[0].slices["length=short"][1] == card.quality[0].slices["length=short"][1] == 40
    assert card.payback is not None
    saved_j, making_j = card.payback.saved_per_request_j, card.payback.making.energy_j
    assert saved_j is not None
    assert making_j == card.energy.energy_j
    assert making_j is not None
    request_j = card.quality[0].energy.energy_j / 40 if card.quality[0].energy and card.quality[0].energy.energy_j else None
    assert card.payback.request_j == request_j
    assert card.payback.requests == (math.ceil(making_j / saved_j) if saved_j > 0 else None)
    assert (card.payback.concurrency, card.payback.teacher_counted) == (32, True)
    assert card.payback.alone is not None
    costs = [one.steps[-1].serving_after for one in (card, teacher)]
    assert [card.payback.alone.request_j, card.payback.alone.teacher_request_j] == [c.energy.energy_j for c in costs if c]
    assert card.notes == teacher.notes == []
    readme = (out / "README.md").read_text()
    assert "## Energy payback" in readme
    assert "| length=short | 40 |" in readme


def test_a_teacher_made_elsewhere_is_asked_the_same_examples(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    learn = {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3}
    large = recipe_for(tiny_dir, task_dir, [{"fine_tune": learn}], name="large")
    teacher = compress(large, tmp_path / "teacher", progress=quiet, say=quiet, gains=False, evaluate_limit=8)
    assert len(teacher.notes) == 1
    assert teacher.notes[0].startswith("Not compared with a teacher")

    def student(directory: Path) -> ModelCard:
        steps: Steps = [{"prune": {"depth": 2}}, {"distill": {**learn, "epochs": 1, "teacher": str(directory)}}]
        recipe = recipe_for(tiny_dir, task_dir, steps)
        return compress(recipe, tmp_path / f"of-{directory.name}", progress=quiet, say=quiet, gains=False, evaluate_limit=20)

    card = student(tmp_path / "teacher")
    assert (card.teacher, card.notes) == ("large", [])
    [theirs] = card.teacher_quality
    assert (theirs.split, theirs.examples, theirs.engine) == ("val", 20, "openvino model-F16.gguf")
    assert theirs.accuracy >= 0.9
    assert card.payback is not None
    assert card.payback.teacher_counted
    assert card.payback.making.energy_j == pytest.approx((card.energy.energy_j or 0) + (teacher.energy.energy_j or 0))
    assert "### Slices of val: this model against large" in (tmp_path / "of-teacher" / "README.md").read_text()
    for name in ("card.json", "model-F16.gguf"):
        (tmp_path / "teacher" / name).unlink()
    (tmp_path / "teacher").rename(tmp_path / "weights")
    card = student(tmp_path / "weights")
    assert (card.teacher, card.teacher_quality[0].accuracy) == ("weights", theirs.accuracy)
    assert card.payback is not None
    assert not card.payback.teacher_counted
    assert card.payback.making.energy_j == card.energy.energy_j


def test_a_teacher_that_cannot_be_asked_costs_no_model(
    tiny_dir: Path, task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: Path, *_: object) -> list[object]:
        raise EngineError(f"the engine died with {tiny_dir}")

    monkeypatch.setattr("greenagent.compress.card.outside.qualities", refuse)
    steps: Steps = [{"distill": {"teacher": str(tiny_dir), "max_examples": 8}}]
    out = tmp_path / "out"
    card = compress(recipe_for(tiny_dir, task_dir, steps), out, progress=quiet, say=quiet, gains=False, evaluate_limit=8)
    name = tiny_dir.name
    said = f"Not compared with the teacher {name}, which could not be asked: the engine died with {name}."
    assert (card.teacher, card.payback, card.notes) == (None, None, [said])
    assert said in (out / "README.md").read_text()


def test_a_slice_that_loses_too_much_ends_the_run_and_keeps_the_work(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out", []
    learn = {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3}
    first: dict[str, dict[str, object] | None] = {"fine_tune": {**learn, "save_as": "teacher"}}
    limits = {"most_slice_loss": 0.05, "min_slice": 8, "select_share": 0.2}

    def go(*steps: dict[str, dict[str, object] | None], resume: bool = False) -> ModelCard:
        recipe = recipe_for(tiny_dir, task_dir, [first, *steps], **limits)
        return compress(recipe, out, resume=resume, progress=quiet, say=said.append, gains=False, evaluate_limit=8)

    with pytest.raises(QualityError, match=r"slice .*=.* loses .*most_slice_loss=0\.05: [01]\.\d+ to .* select examples"):
        go({"fine_tune": {"learning_rate": 0.3, "max_examples": 32, "batch_size": 8}}, {"quantize": {}})
    assert not out.exists()
    assert (work_directory(out) / "01-fine_tune" / "candidate").is_dir()
    [warning] = {line for line in said if line.startswith("warning: most_slice_loss watches ")}
    assert "1 of 1 length slices" in warning
    card = go({"prune": {"ffn": 64}}, {"fine_tune": learn}, resume=True)
    assert card.notes == [f"{warning.removeprefix('warning: ')}."]
    assert "step 1/3: fine_tune (done before)" in said
    assert [q.split for q in card.quality] == [q.split for q in card.teacher_quality] == ["val", "select"]
    assert card.quality[-1].examples == 32
    assert not work_directory(out).exists()


def test_a_limit_that_would_watch_no_slice_is_said_before_anything_is_trained(
    tiny_dir: Path, task_dir: Path, tmp_path: Path
) -> None:
    steps: Steps = [{"fine_tune": {"save_as": "teacher"}}, {"quantize": {}}]
    recipe = recipe_for(tiny_dir, task_dir, steps, most_slice_loss=0.1)
    with pytest.raises(RecipeError, match="min_slice=20 of the 16 select examples"):
        compress(recipe, tmp_path / "out", progress=quiet, say=quiet)
    assert not list(tmp_path.iterdir())


def test_the_directory_reloads_with_plain_transformers_and_says_the_same(made: tuple[Path, ModelCard, list[str]]) -> None:
    out, card, _ = made
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer("please paint room 7 in black\n", return_tensors="pt").input_ids
    said = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)[0, ids.shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True) == "paint black"
    assert card.agreement["explanation"]
    assert {f.path for f in card.files} >= {"config.json", "model.safetensors", "tokenizer.json", "model-Q8_0.gguf"}
    assert "# tiny" in (out / "README.md").read_text()
    assert not work_directory(out).exists()


@pytest.mark.parametrize("moment", ["in training", "between steps"])
def test_a_killed_run_resumes_and_keeps_its_joules(tiny_dir: Path, task_dir: Path, tmp_path: Path, moment: str) -> None:
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(yaml.safe_dump(recipe_for(tiny_dir, task_dir).model_dump()))
    out, work = tmp_path / "out", tmp_path / ".out.work"
    command = [sys.executable, "-m", "greenagent", "compress", str(recipe_file), "-o", str(out), "--ledger", "none", "--no-gains"]
    waits_for = work / ("01-fine_tune" if moment == "in training" else "02-quantize/fact.json")
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    deadline = time.monotonic() + 120
    while not waits_for.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert waits_for.exists()
    assert not out.exists()
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    done_before = list(work.glob("*/fact.json"))
    resumed = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    card = json.loads(resumed.stdout)
    assert card["quality"][0]["accuracy"] >= 0.9
    assert resumed.stderr.count("(done before)") == len(done_before)


def test_unfinished_work_of_another_recipe_is_not_mixed_in(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    work = work_directory(out)
    work.mkdir()
    (work / "run.json").write_text(json.dumps({"base": ["other"], "steps": []}))
    with pytest.raises(InputError, match="another model, task, seed"):
        compress(recipe_for(tiny_dir, task_dir), out, resume=True, progress=quiet, say=quiet, gains=False)


def test_a_corrected_recipe_keeps_the_steps_that_are_the_same(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first: Steps = [{"prune": {"depth": 3}}, {"prune": {"ffn": 64}}, {"fine_tune": {"max_tokens": 8}}]
    with pytest.raises(TaskError, match="raise max_tokens"):
        compress(recipe_for(tiny_dir, task_dir, first), out, progress=quiet, say=quiet, gains=False)
    said: list[str] = []
    other: Steps = [{"prune": {"depth": 2}}, *first[1:]]
    with pytest.raises(InputError, match=r"step 1 \(prune\) is done and differs"):
        compress(recipe_for(tiny_dir, task_dir, other), out, resume=True, progress=quiet, say=quiet, gains=False)
    mark = work_directory(out) / "run.json"
    begun = json.loads(mark.read_text())
    assert begun["steps"][0][1].pop("hidden", "absent") is None  # as a release without this option left it
    mark.write_text(json.dumps(begun))
    corrected: Steps = [*first[:2], {"prune": {"depth": 2}}]
    card = compress(
        recipe_for(tiny_dir, task_dir, corrected),
        out,
        resume=True,
        progress=quiet,
        say=said.append,
        gains=False,
        evaluate_limit=4,
    )
    assert [line for line in said if "done before" in line] == ["step 1/3: prune (done before)", "step 2/3: prune (done before)"]
    assert [s.options for s in card.steps] == [{"depth": 3}, {"ffn": 64}, {"depth": 2}]
    assert card.interface.kind == "chat"  # nothing has trained it for the task


def test_what_a_crash_left_without_its_mark_is_not_taken_for_a_run(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    work = work_directory(tmp_path / "out")
    (work / "01-prune").mkdir(parents=True)
    (work / "01-prune" / "fact.json").write_text("from another recipe")
    steps: Steps = [{"prune": {"depth": 2}}]
    card = compress(
        recipe_for(tiny_dir, task_dir, steps), tmp_path / "out", progress=quiet, say=quiet, gains=False, evaluate_limit=4
    )
    assert card.steps[0].options == {"depth": 2}


@pytest.mark.parametrize("cut", ["empty", "without its state"])
def test_a_checkpoint_cut_short_by_a_crash_is_not_continued_from(cut: str, tmp_path: Path) -> None:
    for step in (3, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text('{"global_step": 3}')
    if cut == "without its state":
        (tmp_path / "checkpoint-12" / "model.safetensors").touch()
        (tmp_path / "checkpoint-12" / "trainer_state.json").write_text('{"global')
    assert _last_whole(tmp_path) == tmp_path / "checkpoint-3"
    assert not (tmp_path / "checkpoint-12").exists()
    assert _last_whole(tmp_path / "none") is None


def test_a_single_file_is_what_is_trained_on(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    steps: Steps = [{"fine_tune": {"max_examples": 8}}]
    card = compress(
        recipe_for(tiny_dir, task_dir / "train.jsonl", steps), tmp_path / "out", progress=quiet, say=quiet, gains=False
    )
    assert card.quality == []  # nothing held out
    assert "Not compared with a teacher" in (tmp_path / "out" / "README.md").read_text()
    assert card.steps[0].quality is not None


def test_what_cannot_be_done_or_written_is_said_before_anything_is_trained(
    tiny_dir: Path, task_dir: Path, tmp_path: Path
) -> None:
    def go(model: Path, *steps: dict[str, dict[str, object] | None]) -> None:
        compress(recipe_for(model, task_dir, list(steps)), tmp_path / "out", progress=quiet, say=quiet, gains=False)

    with pytest.raises(RecipeError, match=r"step 3 \(prune\): .* has 2 layers; asked to keep 3"):
        go(tiny_dir, {"fine_tune": {}}, {"prune": {"depth": 2}}, {"prune": {"depth": 3}})
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_dir), AutoTokenizer.from_pretrained(tiny_dir)
    model.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    model.save_pretrained(tmp_path / "rope")
    tokenizer.save_pretrained(tmp_path / "rope")
    with pytest.raises(ModelError, match="rope scaling 'linear'"):
        go(tmp_path / "rope", {"fine_tune": {}})
    assert not (tmp_path / "out").exists()
    assert not work_directory(tmp_path / "out").exists()


def test_a_teacher_that_no_step_saved_is_named(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    steps: Steps = [{"distill": {"teacher": "nobody"}}]
    with pytest.raises(RecipeError, match="no teacher 'nobody'"):
        compress(recipe_for(tiny_dir, task_dir, steps), tmp_path / "out", progress=quiet, say=quiet, gains=False)
    assert not list(tmp_path.iterdir())  # neither output nor unfinished work stands in the way of the corrected recipe


def test_a_foreign_directory_is_never_overwritten(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not a model directory"):
        compress(recipe_for(tiny_dir, task_dir), tmp_path / "out", progress=quiet, say=quiet, gains=False)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "precious"


def test_a_full_disk_is_one_clear_line_and_leaves_no_output(
    tiny_dir: Path, task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("greenagent.compress.language.LanguageModel.save", full)
    steps: Steps = [{"prune": {"depth": 2}}]
    with pytest.raises(EnvironmentalError, match="no space left on the disk"):
        compress(recipe_for(tiny_dir, task_dir, steps), tmp_path / "out", progress=quiet, say=quiet, gains=False)
    assert not (tmp_path / "out").exists()


def test_every_objective_of_distillation_trains(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    common = {"teacher": ["large", "again"], "max_examples": 16, "epochs": 6, "batch_size": 4, "learning_rate": 1e-3}
    steps: Steps = [
        {"fine_tune": {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "save_as": "large"}},
        {"quantize": {"save_as": "again"}},
        {"prune": {"depth": 2}},
        {"distill": {**common, "divergence": "reverse", "weighing": "convex", "alpha": 0.5}},
        {"distill": {**common, "divergence": "jensen_shannon", "beta": 0.3, "on_policy": 0.7}},
    ]
    card = compress(
        recipe_for(tiny_dir, task_dir, steps), tmp_path / "out", progress=quiet, say=quiet, gains=False, evaluate_limit=8
    )
    losses = [step.notes["final_loss"] for step in card.steps if step.step == "distill"]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)


def declared_rows(count: int) -> list[dict[str, object]]:
    """Two tools told with each request, of which one is asked for by its name."""
    rows = []
    for i in range(count):
        names = [f"paint_{COLOURS[i % 4]}", f"paint_{COLOURS[(i + 1 + i // 4 % 3) % 4]}"]
        tools = [{"type": "function", "function": {"name": name}} for name in sorted(names)]
        call = {"function": {"name": names[0], "arguments": "{}"}}
        request = {"role": "user", "content": f"please paint room {i} in {COLOURS[i % 4]}"}
        rows.append({"messages": [request, {"role": "assistant", "tool_calls": [call]}], "tools": tools})
    return rows


@pytest.fixture
def declared_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "declared"
    directory.mkdir()
    (directory / "task.json").write_text('{"interface": "declared"}')
    for split, rows in (("train", declared_rows(160)), ("val", declared_rows(24))):
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return directory


def test_a_student_of_declared_tools_reads_them_in_its_prompt(tiny_dir: Path, declared_dir: Path, tmp_path: Path) -> None:
    steps: Steps = [
        {"fine_tune": {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3}},
        {"quantize": {"save_as": "teacher"}},
        {"prune": {"vocabulary": "task", "common_tokens": 300}},
        {"distill": {"teacher": "teacher", "epochs": 1, "batch_size": 8, "learning_rate": 1e-3}},
        {"quantize": {"format": "Q8_0"}},
    ]
    card = compress(recipe_for(tiny_dir, declared_dir, steps), tmp_path / "out", progress=quiet, say=quiet)
    assert (card.interface.kind, card.interface.tools, card.interface.tools_hash) == ("declared", [], None)
    [quality] = card.quality
    assert quality.accuracy >= 0.9  # half would be right without reading which tools there are and what is asked
    assert "any tools" in (tmp_path / "out" / "README.md").read_text()


def test_new_requests_need_common_tools(tiny_dir: Path, declared_dir: Path, tmp_path: Path) -> None:
    steps: Steps = [{"quantize": {"save_as": "teacher"}}, {"synthesize": {"teacher": "teacher", "lists": 1}}]
    with pytest.raises(RecipeError, match="here each example has its own"):
        compress(recipe_for(tiny_dir, declared_dir, steps), tmp_path / "out", progress=quiet, say=quiet, gains=False)
