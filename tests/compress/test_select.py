"""Which examples are kept: what counts as a near-duplicate, as unsure and as covered, and that later steps see nothing else."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from greenagent.compress.classify.tiny.candidate import Tiny
from greenagent.compress.load import load_candidate
from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe
from greenagent.compress.recorded import Ended
from greenagent.compress.run import SYNTHETIC_FILE, Run
from greenagent.compress.select.choose import Known, keep_share
from greenagent.compress.select.coverage import most_covering
from greenagent.compress.select.duplicates import pieces_of, without_near_duplicates
from greenagent.compress.select.step import Select
from greenagent.compress.select.uncertainty import uncertainties
from greenagent.compress.select.vectors import hidden_vectors, ngram_vectors
from greenagent.compress.synthesize.label import asking
from greenagent.compress.training.examples import fit_select
from greenagent.core.calls import Tool, ToolCall
from greenagent.core.errors import RecipeError
from greenagent.core.interface import Interface, Message
from greenagent.tasks import Example, load_task


@pytest.fixture
def run(task_dir: Path, tmp_path: Path) -> Run:
    """The third step of a run whose second one wrote ten requests."""
    task = load_task(task_dir)
    fit, select = fit_select(task.splits["train"], seed=0)
    folder = tmp_path / "03-select"
    folder.mkdir()
    (tmp_path / "02-synthesize").mkdir()
    written = "".join(f"{e.model_dump_json()}\n" for e in asking([f"wallpaper for hall {i}" for i in range(10)]))
    (tmp_path / "02-synthesize" / SYNTHETIC_FILE).write_text(written)
    quiet: Any = lambda *_: None  # noqa: E731
    return Run("r", task.interface(), fit, select, 0, tmp_path, quiet, quiet, folder)


class _Letters(Tiny):
    """Chooses by the counts of letters."""

    temperature = 0.5

    def inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        return {"counts": torch.tensor([[float(text.count(chr(97 + i))) for i in range(26)] for text in texts])}

    def logits(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.as_tensor(model(batch["counts"]))


# --- near-duplicates ------------------------------------------------------------------------------------------------------------


def test_almost_the_same_words_for_the_same_answer_are_kept_once() -> None:
    texts = [
        "please send ten dollars from bank of america to capital one",
        "Send ten dollars from Bank of America to Capital One!",
        "please send ten dollars from bank of america to capital two",
        "what is my balance",
    ]
    assert without_near_duplicates(texts, ["pay", "pay", "pay", "balance"], 0.8) == [0, 3]
    assert without_near_duplicates(texts, ["pay", "ask", "warn", "balance"], 0.8) == [0, 1, 2, 3]
    assert without_near_duplicates(texts, ["pay", "pay", "pay", "balance"], 1.0) == [0, 1, 2, 3]
    assert without_near_duplicates(["A b c!", "a  b c", "👍", "👎"], ["x"] * 4, 1.0) == [0, 2, 3]


@given(
    texts=st.lists(st.text("ab ", max_size=12), max_size=30),
    likeness=st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
)
def test_the_index_misses_no_pair_that_comparing_all_would_find(texts: list[str], likeness: float) -> None:
    answers = [text[:1] for text in texts]
    kept: list[int] = []
    for number, text in enumerate(texts):
        near = (o for o in kept if answers[o] == answers[number])
        own = pieces_of(text)
        if not any(len(own & pieces_of(texts[o])) / len(own | pieces_of(texts[o])) >= likeness - 1e-9 for o in near):
            kept.append(number)
    assert without_near_duplicates(texts, answers, likeness) == kept


# --- coverage -------------------------------------------------------------------------------------------------------------------


def unit(rows: Any) -> Any:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_one_of_each_crowd_is_kept_and_the_largest_crowds_first() -> None:
    rng = np.random.default_rng(1)
    crowds = np.repeat(np.eye(4), [20, 10, 5, 1], axis=0)
    vectors = unit(crowds + 0.05 * rng.random(crowds.shape))
    chosen = most_covering(vectors, np.ones(36), 4, np.random.default_rng(0))
    assert crowds[chosen].argmax(1).tolist() == [0, 1, 2, 3]
    weights = np.where(crowds.argmax(1) == 2, 100.0, 1.0)
    assert crowds[most_covering(vectors, weights, 1, np.random.default_rng(0))].argmax(1).tolist() == [2]


def test_random_tries_cover_almost_as_much_as_trying_all() -> None:
    vectors = unit(np.random.default_rng(2).random((300, 8)) - 0.5)

    def covered(rows: list[int]) -> float:
        return float(np.maximum(vectors @ vectors[rows].T, 0).max(1).sum())

    chosen = most_covering(vectors, np.ones(300), 30, np.random.default_rng(0))
    assert len(set(chosen)) == 30
    greedy: list[int] = []
    for _ in range(30):
        greedy.append(max(set(range(300)) - set(greedy), key=lambda row: covered([*greedy, row])))
    assert covered(chosen) > 0.97 * covered(greedy)
    assert covered(chosen) > covered(np.random.default_rng(0).permutation(300)[:30].tolist())
    assert sorted(most_covering(vectors, np.ones(300), 300, np.random.default_rng(0))) == list(range(300))


def test_like_requests_have_near_vectors() -> None:
    one, other, far, empty = ngram_vectors(["play some jazz music", "please play jazz music", "what is my balance", "?!"])
    assert one @ other > 0.4 > 0.2 > one @ far
    assert np.allclose(np.linalg.norm([one, other, far, empty], axis=1), 1)


def test_hidden_states_are_means_over_real_tokens(tiny_dir: Path) -> None:
    teacher = load_candidate(str(tiny_dir))
    teacher.model.float()
    prompts = ["paint\n", "please paint room 3 in red\n", "please paint the hall\n"]
    means = []
    for prompt in prompts:
        ids = torch.tensor([teacher.tokenizer(prompt).input_ids])
        means.append(teacher.model.model(input_ids=ids).last_hidden_state[0].mean(0).detach().numpy())
    expected = unit(np.array(means) - np.mean(means, axis=0))
    assert hidden_vectors(teacher, prompts, lambda *_: None) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(RecipeError, match="only a language model's"):
        hidden_vectors(_Letters(torch.nn.Linear(26, 3), None, "b"), prompts, lambda *_: None)


# --- uncertainty ----------------------------------------------------------------------------------------------------------------


def test_a_language_models_doubt_is_that_of_its_own_answers(tiny_dir: Path, run: Run) -> None:
    teacher = load_candidate(str(tiny_dir))
    prompts = [run.interface.render_prompt(example.messages) for example in run.fit[:6]]
    found = uncertainties(str(tiny_dir), teacher, prompts, run)
    teacher.model.float()
    for prompt, doubt in zip(prompts, found, strict=True):
        ids = torch.tensor([teacher.tokenizer(prompt).input_ids])
        said = teacher.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=run.interface.max_answer_tokens,
            output_logits=True,
            return_dict_in_generate=True,
        )
        likeliest = [float(step.log_softmax(-1).max()) for step in said.logits]
        assert doubt == pytest.approx(-np.mean(likeliest), rel=0.05)
    assert len((run.step_dir / "uncertainty.jsonl").read_text().split()) == 2 * len(prompts)
    recalled = run.step_dir / "uncertainty.jsonl"
    recalled.write_text("".join(f"\n[{number}, {number}.5]" for number in range(6)))
    assert uncertainties(str(tiny_dir), teacher, prompts, run).tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]


def test_a_classifiers_doubt_is_the_entropy_of_its_choices(run: Run) -> None:
    network = torch.nn.Linear(26, 4, bias=False)
    with torch.no_grad():
        network.weight.zero_()
        network.weight[0, 0] = 50.0  # a: sure
        network.weight[:2, 1] = 50.0  # b: one of two
        network.weight[0, 3] = 1.0  # d: three times one against e to the power of 1 / temperature
    found = uncertainties("t", _Letters(network, None, "b"), ["a", "b", "c", "d"], run)
    odds = np.exp([2.0, 0, 0, 0]) / np.exp([2.0, 0, 0, 0]).sum()
    assert found.tolist() == pytest.approx([0, np.log(2), np.log(4), -(odds * np.log(odds)).sum()], abs=1e-6)


# --- the share ------------------------------------------------------------------------------------------------------------------


def test_every_kind_keeps_its_share_and_none_is_lost() -> None:
    kinds = ["often"] * 30 + ["seldom"] * 3 + ["once"]
    kept = keep_share(kinds, 0.1, Known(), np.random.default_rng(0))
    assert [kinds[number] for number in kept] == ["often"] * 2 + ["seldom", "once"]
    assert kept == sorted(kept) == keep_share(kinds, 0.1, Known(), np.random.default_rng(0))
    assert kept != keep_share(kinds, 0.1, Known(), np.random.default_rng(1))
    assert keep_share(kinds, 1.0, Known(), np.random.default_rng(0)) == list(range(34))


def test_many_rare_kinds_do_not_raise_the_share() -> None:
    kinds = ["often"] * 40 + [f"rare {number}" for number in range(60)]
    kept = keep_share(kinds, 0.1, Known(), np.random.default_rng(0))
    assert Counter(kinds[number].split()[0] for number in kept) == {"often": 4, "rare": 6}
    pairs = ["often"] * 40 + [f"rare {number // 2}" for number in range(60)]
    doubts = np.arange(100.0)
    kept = keep_share(pairs, 0.1, Known(doubts=doubts), np.random.default_rng(0))
    assert kept == [36, 37, 38, 39, 89, 91, 93, 95, 97, 99]  # of each rare kind one, of these the most doubtful
    assert len({pairs[number] for number in keep_share(pairs, 0.35, Known(), np.random.default_rng(0))}) == 31


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20), share=st.floats(0.01, 1))
def test_the_share_is_kept_exactly_and_no_kind_is_lost_where_it_has_room(sizes: list[int], share: float) -> None:
    kinds = [str(kind) for kind, size in enumerate(sizes) for _ in range(size)]
    kept = keep_share(kinds, share, Known(), np.random.default_rng(0))
    assert len(set(kept)) == len(kept) == math.ceil(round(share * len(kinds), 6))
    if len(kept) >= len(sizes):
        assert {kinds[number] for number in kept} == set(kinds)


def test_the_most_doubtful_are_kept_and_what_is_unknown_last() -> None:
    doubts = np.array([0.1, np.nan, 2.0, 0.5, 1.0, 0.2])
    assert keep_share(["a"] * 6, 0.5, Known(doubts=doubts), np.random.default_rng(0)) == [2, 3, 4]
    assert keep_share(["a"] * 3 + ["b"] * 3, 0.3, Known(doubts=doubts), np.random.default_rng(0)) == [2, 4]


def test_both_keeps_what_stands_for_the_doubtful() -> None:
    vectors = unit(np.repeat(np.eye(2), [12, 10], axis=0) + 0.01)
    doubts = np.repeat([0.0, 3.0], [12, 10])
    crowd, doubtful = Known(vectors=vectors), Known(vectors=vectors, doubts=doubts)
    assert keep_share(["a"] * 22, 1 / 22, crowd, np.random.default_rng(0))[0] < 12
    assert keep_share(["a"] * 22, 1 / 22, doubtful, np.random.default_rng(0))[0] >= 12


# --- the step -------------------------------------------------------------------------------------------------------------------


def test_later_steps_see_only_what_is_kept(run: Run) -> None:
    candidate: Any = object()
    before, written = list(run.fit), run.synthetic()
    assert Select(duplicates=None, share=0.25, by="random").apply(candidate, run) is candidate
    run.end_step()
    assert [e for e in before if e in run.fit] == run.fit
    assert [e for e in written if e in run.synthetic()] == run.synthetic()
    assert len(run.synthetic()) in (2, 3)  # a quarter of ten
    assert len(run.fit) + len(run.synthetic()) == 39  # a quarter of all, rounded up
    colours, kept = Counter(e.expected[0].name for e in before), Counter(e.expected[0].name for e in run.fit)
    assert all(abs(kept[colour] - count / 4) < 1 for colour, count in colours.items())
    assert run.notes == {"examples": 154, "duplicates": 0, "kept": 39}
    later = run.work / "04-synthesize"
    later.mkdir()
    (later / SYNTHETIC_FILE).write_text(written[0].model_dump_json() + "\n")
    assert len(run.synthetic()) == 39 - len(run.fit) + 1  # what is written afterwards is not dropped
    run.step_dir = later
    run.end_step()
    assert len(run.fit) < 40


def test_requests_are_compared_by_what_was_said_and_not_by_the_tools_they_declare(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks(number: int, text: str, tools: list[str]) -> Example:
        declared = [Tool(name=name, description="does what its name says, at once or later") for name in tools]
        said = [Message(role="user", content=text)]
        return Example(id=str(number), messages=said, expected=[ToolCall(name=tools[0])], tools=declared)

    many = [f"tool_of_the_house_{number}" for number in range(20)]
    others = [many[0], *(f"another_instrument_{number}" for number in range(20))]
    run.interface = Interface(kind="declared")
    run.fit = [asks(0, "open the window", many), asks(1, "what is my balance", many), asks(2, "open the window!", others)]
    (run.work / "02-synthesize" / SYNTHETIC_FILE).unlink()
    assert {len(example.prompt(run.interface)) > 100 for example in run.fit} == {True}
    Select().apply(None, run)  # type: ignore[arg-type]
    run.end_step()
    assert [example.id for example in run.fit] == ["0", "1"]
    seen: list[str] = []
    monkeypatch.setattr(f"{Select.__module__}.ngram_vectors", lambda texts: seen.extend(texts) or ngram_vectors(texts))
    run.step_dir = run.work / "04-select"
    run.step_dir.mkdir()
    Select(share=0.5).apply(None, run)  # type: ignore[arg-type]
    assert seen == [" open the window\n", " what is my balance\n"]


def test_a_choice_made_before_a_crash_stands(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step, candidate = Select(share=0.5), None
    step.apply(candidate, run)  # type: ignore[arg-type]
    first, notes = (run.step_dir / "kept.json").read_text(), dict(run.notes)
    run.notes.clear()
    monkeypatch.setattr(Select, "_choose", lambda *_: pytest.fail("chosen again"))
    step.apply(candidate, run)  # type: ignore[arg-type]
    assert (run.step_dir / "kept.json").read_text() == first
    assert run.notes == notes


def test_labelled_examples_come_before_synthetic_ones_that_are_like_them(run: Run) -> None:
    twin = run.fit[0].model_copy(update={"id": "twin"})
    path = run.work / "02-synthesize" / SYNTHETIC_FILE
    path.write_text(path.read_text() + twin.model_dump_json() + "\n")
    Select(duplicates=1.0).apply(None, run)  # type: ignore[arg-type]
    run.end_step()
    assert run.notes["duplicates"] == 1
    assert twin not in run.synthetic()
    assert run.fit[0].messages == twin.messages


STEPS: list[dict[str, dict[str, object] | None]] = [
    {"fine_tune": {"epochs": 4, "batch_size": 8, "learning_rate": 3e-3, "save_as": "teacher"}},
    {"synthesize": {"teacher": "teacher", "lists": 0, "unlabelled": "requests.txt"}},
    {"select": {"duplicates": 0.95, "share": 0.2, "by": "both", "teacher": "teacher", "vectors": "teacher"}},
    {"fine_tune": {"epochs": 1, "batch_size": 8, "synthetic": 1}},
]


def test_a_resumed_recipe_trains_on_what_was_selected(
    tiny_dir: Path, task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quiet(*_: object) -> None:
        """No progress."""

    def crash_after_select(ended: Ended, _: object) -> None:
        if ended.name.endswith("select"):
            raise RuntimeError("crash")

    monkeypatch.chdir(tmp_path)
    colours = ["red", "green", "blue", "black"]
    random.Random(0).shuffle(colours)
    (tmp_path / "requests.txt").write_text("\n".join(f"kindly paint hall {i} in {colours[i % 4]}" for i in range(40)))
    recipe = Recipe.model_validate({"name": "r", "model": str(tiny_dir), "task": str(task_dir), "steps": STEPS})
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="crash"):
        compress(recipe, out, progress=quiet, say=quiet, record=crash_after_select)
    kept = json.loads((tmp_path / ".out.work" / "03-select" / "kept.json").read_text())
    card = compress(recipe, out, resume=True, progress=quiet, say=quiet, evaluate_limit=4)
    synthesized, selected, trained = (step.notes for step in card.steps[1:])
    assert synthesized["unlabelled"] == 40
    assert synthesized["usable"] >= 30
    assert selected["examples"] == 144 + synthesized["kept"]
    assert selected["kept"] == len(kept["fit"]) + len(kept["synthetic"]) < 50
    assert kept["fit"]
    assert kept["synthetic"]
    assert trained["examples"] == selected["kept"]
    readme = (out / "README.md").read_text()
    assert f"| 3 | 20.0% | both | {selected['kept']} of {selected['examples']} (" in readme


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"duplicates": None}, "nothing would be dropped"),
        ({"by": "random"}, "they need a share below 1"),
        ({"share": 0.5, "by": "both"}, "by both with vectors of ngrams needs a teacher"),
        ({"share": 0.5, "by": "random", "teacher": "t"}, "asks no teacher"),
        ({"share": 0.5, "vectors": "teacher"}, "by coverage with vectors of teacher needs a teacher"),
        ({"share": 0.5, "by": "uncertainty", "vectors": "teacher", "teacher": "t"}, "need by coverage or both, not uncertainty"),
        ({"share": 0.5, "by": "uncertainty", "teacher": "nobody"}, "no teacher 'nobody'"),
        ({"share": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_selected_is_said_before_anything_runs(options: dict[str, object], says: str) -> None:
    recipe = Recipe.model_validate({"name": "r", "steps": [{"quantize": {"save_as": "t"}}, {"select": options}]})
    with pytest.raises(RecipeError, match=says):
        recipe.typed_steps()
