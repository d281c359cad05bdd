"""Slices: the length of every example, and the domain where the task directory has a mapping."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from greenagent.core.errors import TaskError
from greenagent.core.interface import Message
from greenagent.tasks import Example, iter_examples, load_task
from greenagent.tasks.slices import slices_of

ROWS = [
    {"text": "pay the bill", "intent": "pay"},
    {"text": "freeze my card", "intent": "freeze"},
    {"text": "sing", "intent": "sing"},
    {"text": "what is love", "intent": "oos"},
]


def directory(tmp_path: Path, domains: str) -> Path:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "domains.json").write_text(domains)
    return tmp_path


def asked(text: str, **slices: str) -> Example:
    return Example(id="1", messages=[Message(role="user", content=text)], expected=[], slices=slices)


@pytest.mark.parametrize(("words", "length"), [(1, "short"), (6, "short"), (7, "medium"), (12, "medium"), (13, "long")])
def test_every_example_has_a_length(words: int, length: str) -> None:
    assert slices_of(asked(" ".join(["word"] * words), tool="a")) == {"length": length, "tool": "a"}


def test_what_the_task_says_of_the_length_is_kept() -> None:
    assert slices_of(asked("one", length="long")) == {"length": "long"}


def test_a_mapping_beside_the_splits_gives_domains(tmp_path: Path) -> None:
    path = directory(tmp_path, json.dumps({"money": ["pay", "freeze"], "travel": ["book"]}))
    examples = load_task(path).splits["train"]
    assert [e.slices.get("domain") for e in examples] == ["money", "money", None, "none"]  # nobody says where singing belongs
    assert [e.slices for e in iter_examples(path / "train.jsonl")] == [e.slices for e in examples]
    with_domains = load_task(path).sha256
    (path / "domains.json").unlink()
    assert load_task(path).sha256 == with_domains  # slices are no part of what is learnt
    assert "domain" not in load_task(path).splits["train"][0].slices


def test_the_domain_of_a_line_wins(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}
    call = {"id": "c", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
    messages = [{"role": "user", "content": "pay"}, {"role": "assistant", "tool_calls": [call]}]
    rows = [{"messages": messages, "tools": [tool], "metadata": m} for m in ({}, {"domain": "mine"})]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "domains.json").write_text('{"money": ["pay"]}')
    assert [e.slices["domain"] for e in load_task(tmp_path).splits["t"]] == ["money", "mine"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "an object of domains"),
        ('{"money": "pay"}', "an object of domains"),
        ('{"money": ["pay"], "travel": ["pay"]}', "'pay' is in the domains 'money' and 'travel'"),
        ("{", "not valid JSON"),
    ],
)
def test_a_broken_mapping_is_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TaskError, match=says) as caught:
        load_task(directory(tmp_path, text))
    assert "domains.json" in str(caught.value)
    assert "\n" not in str(caught.value)
