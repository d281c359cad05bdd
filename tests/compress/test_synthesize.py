"""Requests written by a model and answered by the teacher: what is kept, what is left out, and what a crash costs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from greenagent.compress.recipe import Recipe
from greenagent.compress.run import SYNTHETIC_FILE, Run
from greenagent.compress.synthesize.gather import gather
from greenagent.compress.synthesize.label import asking, capped, labelled
from greenagent.compress.synthesize.requests import read_requests
from greenagent.compress.synthesize.step import Synthesize
from greenagent.compress.synthesize.write import continuations, new_requests, normalised
from greenagent.compress.training.train import TrainOptions
from greenagent.core.calls import Tool, ToolCall
from greenagent.core.engine import EngineRequest, TokenEvent
from greenagent.core.errors import EngineError, RecipeError, TaskError
from greenagent.core.interface import Interface, Message
from greenagent.engines.worker import WorkerClient
from greenagent.tasks import Example

CALL = Tool(
    name="call", parameters={"type": "object", "properties": {"who": {"type": "string"}, "kind": {"enum": ["video", "voice"]}}}
)
LIGHT = Tool(name="light", parameters={"type": "object", "properties": {"level": {"type": "integer"}}})


def example(text: str, name: str, **arguments: object) -> Example:
    return Example(id=text, messages=[Message(role="user", content=text)], expected=[ToolCall(name=name, arguments=arguments)])


FIT = [example(f"call person {i}", "call", who=f"person {i}") for i in range(9)] + [
    example(f"dim the\nlight to {i}", "light", level=i) for i in range(3)
]


def test_a_list_has_requests_of_one_answer_each_on_a_line() -> None:
    lists = continuations(FIT, 10, shots=4, temperatures=[0.5, 0.9], max_tokens=20, seed=3)
    for request in lists:
        lines = (request.prompt or "").split("\n")[1:]
        assert lines[-1] == "-"
        assert len({line.split()[1] for line in lines[:-1]}) == 1
    assert sorted(len((request.prompt or "").split("\n")) - 2 for request in lists) == [3] * 5 + [4] * 5
    assert {request.temperature for request in lists} == {0.5, 0.9}
    assert len({request.seed for request in lists}) == 10
    assert lists == continuations(FIT, 10, shots=4, temperatures=[0.5, 0.9], max_tokens=20, seed=3)


def test_requests_that_no_tool_fits_get_the_share_of_lists_they_were_given() -> None:
    outside = [Example(id=t, messages=[Message(role="user", content=t)], expected=[]) for t in ("why is the sky blue", "who won")]
    usual = continuations([*FIT, *outside], 30, shots=2, temperatures=[0.5, 0.9], max_tokens=20, seed=3)
    more = continuations([*FIT, *outside], 30, shots=2, temperatures=[0.5, 0.9], max_tokens=20, seed=3, outside=0.6)
    assert [sum("sky" in (r.prompt or "") for r in lists) for lists in (usual, more)] == [10, 18]
    assert [sum("person" in (r.prompt or "") for r in lists) for lists in (usual, more)] == [10, 6]
    assert {r.temperature for r in more if "sky" in (r.prompt or "")} == {0.5, 0.9}
    assert len(continuations(FIT, 30, shots=2, temperatures=[0.5], max_tokens=20, seed=3, outside=0.6)) == 30


def test_what_is_known_repeated_empty_or_cut_off_is_left_out() -> None:
    known = {normalised("Call person 1!")}
    texts = [" call Person 1\n- ring up Anna now\n- \n- no\n- put me thr", " Ring up Anna, now\nDial Bob's number\nand th", ""]
    assert new_requests(texts, known) == ["ring up Anna now", "Dial Bob's number"]


def test_invented_words_and_missing_answers_are_left_out() -> None:
    asked = asking(["ring Anna", "ring him", "make it brighter", "video please", "what is love"])
    answers = [
        [ToolCall(name="call", arguments={"who": "anna"})],
        [ToolCall(name="call", arguments={"who": "Bob"})],
        None,
        [ToolCall(name="call", arguments={"who": "please", "kind": "voice"})],
        [],
    ]
    kept = labelled(asked, answers, [CALL, LIGHT])
    assert [e.messages[-1].content for e in kept] == ["ring Anna", "video please", "what is love"]
    assert kept[0].expected == answers[0]
    assert kept[2].expected == []


def test_no_answer_swamps_the_others() -> None:
    made = [example(f"call {i}", "call") for i in range(50)] + [example("dim", "light")]
    kept = capped(made, 5, seed=1)
    assert [e.expected[0].name for e in kept] == ["call"] * 5 + ["light"]
    assert [e.id for e in kept] == sorted((e.id for e in kept), key=[e.id for e in made].index)
    assert kept != capped(made, 5, seed=2)
    outside = [*made, *(example("hm", "call").model_copy(update={"expected": []}) for _ in range(20))]
    assert [len(capped(outside, 5, 1)), len(capped(outside, 5, 1, outside=12))] == [5 + 1 + 5, 5 + 1 + 12]


def test_what_was_answered_before_a_crash_is_not_asked_again(tmp_path: Path) -> None:
    path, asked = tmp_path / "answers.jsonl", []

    async def ask(job: int) -> str:
        if job >= 70 and len(asked) < 80:
            raise EngineError("the engine died")
        asked.append(job)
        return f"answer {job}"

    def go() -> Any:
        return asyncio.run(gather(range(100), ask, path, lambda *_: None))

    with pytest.raises(EngineError, match="died"):
        go()
    before = list(asked)
    assert 0 < len(before) < 100
    path.write_text(path.read_text() + '\n[99, "answ')  # cut off in the middle of a line
    asked.extend([-1] * 80)
    assert go() == [f"answer {job}" for job in range(100)]
    assert sorted(asked[len(before) + 80 :]) == sorted(set(range(100)) - set(before))


class _Model:
    """Continues every list in the same way, and calls whoever stands last in a request."""

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenEvent]:
        if request.request_id.startswith("write"):
            number = request.request_id.rpartition("-")[2]
            text = f" put me through to friend {number}\n- put me through to my aunt\n- cut"
        else:
            text = f"call|who= {(request.prompt or '').split()[-1]}"
        yield TokenEvent(request_id=request.request_id, text=text, finish_reason="stop")

    async def aclose(self) -> None:
        """Nothing to close."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "02-synthesize"
    folder.mkdir()
    (tmp_path / "model-Q8_0.gguf").touch()
    return Run(
        name="r",
        interface=Interface(kind="calls", tools=[CALL, LIGHT]),
        fit=FIT[2:],
        select=FIT[:2],
        seed=0,
        work=tmp_path,
        progress=lambda *_: None,
        say=lambda _: None,
        step_dir=folder,
        held_out=[example("Put me through to friend 1?", "call", who="friend 1")],
        saved={"teacher": tmp_path / "candidate"},
    )


def test_the_step_writes_what_later_steps_train_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(*_: object, **__: object) -> _Model:
        return _Model()

    monkeypatch.setattr(WorkerClient, "start", start)
    candidate: Any = object()
    assert Synthesize(teacher="teacher", lists=3).apply(candidate, run) is candidate
    texts = {e.messages[-1].content: e.expected for e in run.synthetic()}
    assert set(texts) == {f"put me through to {who}" for who in ("friend 0", "friend 2", "my aunt")}  # friend 1 is held out
    assert texts["put me through to my aunt"] == [ToolCall(name="call", arguments={"who": "aunt"})]
    assert run.notes == {"lists": 3, "unlabelled": 0, "requests": 3, "usable": 3, "kept": 3}
    assert run.calibration(4) == [*run.fit[:2], *run.synthetic()[:2]]
    assert len(run.calibration(100)) == len(run.fit) + 3
    assert len(list(TrainOptions.examples(_Options(copies=2), run))) == 2 * len(run.fit)
    assert len(list(TrainOptions.examples(_Options(copies=2, synthetic=3), run))) == 2 * len(run.fit) + 9


def test_unlabelled_requests_are_answered_beside_written_ones(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    async def start(model: object, **_: object) -> _Model:
        started.append(model)
        return _Model()

    monkeypatch.setattr(WorkerClient, "start", start)
    log = tmp_path / "log.jsonl"
    texts = [
        "Ring up  my uncle",
        "call person 5",
        "ring up my uncle!",
        "put me through to friend 2",
        "put me through to friend 1",
    ]
    log.write_text("".join(json.dumps({"text": text, "user": 7}) + "\n" for text in [*texts, *map("dial {}".format, range(50))]))
    candidate: Any = object()
    Synthesize(teacher="teacher", lists=3, unlabelled=str(log)).apply(candidate, run)
    made = {e.messages[-1].content: e.id for e in run.synthetic()}
    assert list(made)[:2] == ["Ring up my uncle", "put me through to friend 2"]  # not what is known, repeated or held out
    assert len(made) == 54  # 52 real ones, however alike their answers, and two new written ones
    assert [text for text, name in made.items() if name.startswith("synthetic")] == [
        "put me through to friend 0",
        "put me through to my aunt",
    ]
    assert run.notes == {"lists": 3, "unlabelled": 52, "requests": 54, "usable": 54, "kept": 54}
    started.clear()
    (run.step_dir / SYNTHETIC_FILE).unlink()
    log.write_text("something else\n")
    Synthesize(teacher="teacher", lists=3, unlabelled=str(log)).apply(candidate, run)
    assert {e.messages[-1].content: e.id for e in run.synthetic()} == made  # after a crash, with the requests of the first start
    assert len(started) == 1  # the teacher: nothing is written again


def test_only_unlabelled_requests_need_no_writer(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(model: object, **_: object) -> _Model:
        assert model != "embedded", "the writer was started"
        return _Model()

    monkeypatch.setattr(WorkerClient, "start", start)
    (tmp_path / "log.txt").write_text("\ufeffring up Anna\n\n  {dial} Bob \r\n", encoding="utf-8")
    candidate: Any = object()
    Synthesize(teacher="teacher", lists=0, unlabelled=str(tmp_path / "log.txt")).apply(candidate, run)
    assert [e.messages[-1].content for e in run.synthetic()] == ["ring up Anna", "{dial} Bob"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"text": "a"}\n{"texts": "b"}\n', r"log\.jsonl:2: expected an object with 'text'"),
        ('{"text": " "}\n', "log.jsonl:1: expected"),
        ('\n{"text": \n', "log.jsonl:2: not valid JSON"),
        ("\n \n", "has no requests"),
    ],
)
def test_a_broken_file_of_requests_is_named_with_its_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(TaskError, match=says):
        read_requests(tmp_path / "log.jsonl")


def test_what_cannot_be_answered_is_said_before_anything_runs(tmp_path: Path) -> None:
    def check(**options: Any) -> None:
        steps = [{"quantize": {"save_as": "t"}}, {"synthesize": {"teacher": "t", **options}}]
        Recipe.model_validate({"name": "r", "steps": steps}).typed_steps()

    with pytest.raises(RecipeError, match="say lists, or unlabelled"):
        check(lists=0)
    with pytest.raises(RecipeError, match=r"no file 'nowhere\.txt'"):
        check(unlabelled="nowhere.txt")
    with pytest.raises(TaskError, match="cannot read"):
        read_requests(tmp_path / "nowhere.txt")


class _Options(TrainOptions):
    def apply(self, candidate: Any, run: Run) -> Any:
        return candidate
