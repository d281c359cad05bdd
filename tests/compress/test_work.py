"""The mark of an unfinished run: what it is of, and what may go on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from greenagent.compress.recipe import Recipe
from greenagent.compress.work import open_work, work_directory
from greenagent.core.errors import InputError

RECIPE = Recipe.model_validate({"name": "r", "steps": [{"quantize": {}}]})


def begin(out: Path, said: list[str], *, resume: bool = False, restart: bool = False, **more: Any) -> Path:
    return open_work(out, RECIPE, RECIPE.typed_steps(), "task", resume=resume, restart=restart, say=said.append, **more)


def test_a_search_and_a_run_without_one_are_never_mixed(tmp_path: Path) -> None:
    for kind, other, advice in (("recipe", "search", "leave --target away"), ("search", "recipe", "add --target")):
        out = tmp_path / kind
        begin(out, [], kind=kind)
        (work_directory(out) / "precious").touch()
        with pytest.raises(InputError, match=f"{advice} to continue it, or add --restart"):
            begin(out, [], resume=True, kind=other)
        assert begin(out, [], resume=True, kind=kind) == work_directory(out)
        assert (work_directory(out) / "precious").exists()
        begin(out, [], restart=True, kind=other)
        assert not (work_directory(out) / "precious").exists()


def test_a_mark_from_before_marks_had_a_kind_is_read(tmp_path: Path) -> None:
    mark = begin(tmp_path / "out", []) / "run.json"
    told = json.loads(mark.read_text())
    del told["kind"]
    mark.write_text(json.dumps(told))
    with pytest.raises(InputError, match="leave --target away"):
        begin(tmp_path / "out", [], resume=True, kind="search")
    assert begin(tmp_path / "out", [], resume=True)


def test_resuming_says_when_there_is_nothing_to_resume(tmp_path: Path) -> None:
    said: list[str] = []
    work = begin(tmp_path / "out", said, resume=True)
    assert said == [f"nothing to resume: there is no unfinished run in {work}; starting afresh"]
    begin(tmp_path / "out", said, resume=True)
    begin(tmp_path / "new", said)
    assert len(said) == 1
