from pathlib import Path

import pytest
import torch

from greenagent.compress.load import load_candidate
from greenagent.compress.training.examples import (
    IGNORED,
    LengthGroupedSampler,
    Rows,
    collate,
    encode,
    exact_answers,
    fit_select,
    subword_variants,
)
from greenagent.core.errors import TaskError
from greenagent.tasks import load_task


def test_only_the_answer_is_learnt(tiny_dir: Path, task_dir: Path) -> None:
    task, tokenizer = load_task(task_dir), load_candidate(str(tiny_dir)).tokenizer
    example = task.splits["train"][0]
    (row,) = encode([example], task.interface(), tokenizer, 64)
    answer = [i for i in row["labels"] if i != IGNORED]
    assert tokenizer.decode(answer) == "paint red<|im_end|>"
    assert tokenizer.decode(row["input_ids"][: -len(answer)]) == "please paint room 0 in red\n"


def test_an_example_too_long_is_an_error_not_cut(tiny_dir: Path, task_dir: Path) -> None:
    task = load_task(task_dir)
    with pytest.raises(TaskError, match="raise max_tokens"):
        encode(task.splits["train"][:1], task.interface(), load_candidate(str(tiny_dir)).tokenizer, 8)


def test_fit_and_select_share_nothing(task_dir: Path) -> None:
    train = load_task(task_dir).splits["train"]
    fit, select = fit_select(train, seed=3)
    assert len(select) == 16
    assert {e.id for e in fit} | {e.id for e in select} == {e.id for e in train}
    assert not {e.id for e in fit} & {e.id for e in select}


def test_the_sampler_visits_every_row_once_and_repeats_itself_per_epoch() -> None:
    lengths = [(i * 7) % 23 + 1 for i in range(101)]
    sampler = LengthGroupedSampler(lengths, batch_size=8, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(101))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    spread = [max(lengths[i] for i in first[j : j + 8]) - min(lengths[i] for i in first[j : j + 8]) for j in range(0, 96, 8)]
    assert sum(spread) / len(spread) < 4


def test_padding_changes_no_answer(tiny_dir: Path, task_dir: Path) -> None:
    candidate, task = load_candidate(str(tiny_dir)), load_task(task_dir)
    rows = encode(task.splits["val"], task.interface(), candidate.tokenizer, 64)
    batch = collate(rows[:5], candidate.tokenizer.pad_token_id)
    alone = collate(rows[:1], candidate.tokenizer.pad_token_id)
    model = candidate.model.float().eval()
    with torch.inference_mode():
        together = model.model(input_ids=batch["input_ids"]).last_hidden_state[0, : alone["input_ids"].shape[1]]
        single = model.model(input_ids=alone["input_ids"]).last_hidden_state[0]
    assert torch.allclose(together, single, atol=1e-5)


def test_exact_answers_agrees_with_greedy_generation(tiny_dir: Path, task_dir: Path) -> None:
    candidate, task = load_candidate(str(tiny_dir)), load_task(task_dir)
    model, tokenizer = candidate.model.float().eval(), candidate.tokenizer
    rows = list(encode(task.splits["val"][:8], task.interface(), tokenizer, 64))
    for row in rows[:4]:  # what the model would say by itself is right by definition
        start = row["labels"].index(next(i for i in row["labels"] if i != IGNORED))
        prompt = torch.tensor([row["input_ids"][:start]])
        mask = torch.ones_like(prompt)
        said = model.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=3)[0, start:].tolist()
        row["input_ids"] = row["input_ids"][:start] + said
        row["labels"] = [IGNORED] * start + said
    assert exact_answers(model, rows, tokenizer.pad_token_id) == [True] * 4 + [False] * 4


def test_subword_variants_cut_the_same_prompt_otherwise_and_keep_the_answer(tiny_dir: Path, task_dir: Path) -> None:
    tokenizer, task = load_candidate(str(tiny_dir)).tokenizer, load_task(task_dir)
    rows = encode(task.splits["train"][:8], task.interface(), tokenizer, 64)
    variants = subword_variants(rows, tokenizer, dropout=0.3, count=3)
    others = [cut for cuts in variants for row, cut in zip(rows, cuts, strict=True) if cut["input_ids"] != row["input_ids"]]
    assert len(others) > 12
    for cuts in variants:
        for row, cut in zip(rows, cuts, strict=True):
            assert tokenizer.decode(cut["input_ids"]) == tokenizer.decode(row["input_ids"])
            assert [i for i in cut["labels"] if i != IGNORED] == [i for i in row["labels"] if i != IGNORED]
    again = encode(task.splits["train"][:8], task.interface(), tokenizer, 64)
    assert list(again) == list(rows)  # the tokenizer itself is as it was


def test_rows_are_kept_compactly_and_given_out_whole(tmp_path: Path) -> None:
    rows = Rows()
    rows.append([5, 6, 7], [8, 2])
    rows.append([], [2])
    assert list(rows) == [
        {"input_ids": [5, 6, 7, 8, 2], "labels": [IGNORED, IGNORED, IGNORED, 8, 2]},
        {"input_ids": [2], "labels": [2]},
    ]
    assert rows[-1] == rows[1]
    assert rows[:1] == [rows[0]]
    assert rows.prompt(0) + rows.answer(0) == [5, 6, 7, 8, 2]
    assert list(rows.lengths) == [5, 1]
    rows.write(tmp_path / "rows.npz")
    read = Rows.read(tmp_path / "rows.npz")
    assert (list(read), read.sha256) == (list(rows), rows.sha256)
    read.append([1], [2])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npz"]
    rows[0]["labels"][3] = 0
    assert rows.answer(0) == [8, 2]  # a row that was given out is its taker's
    with pytest.raises(IndexError):
        rows[2]
