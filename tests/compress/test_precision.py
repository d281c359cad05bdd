"""In which precision training computes, and what its weights are afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from greenagent.compress.distill.teacher import Teachers
from greenagent.compress.fine_tune import FineTune
from greenagent.compress.load import load_candidate
from greenagent.compress.run import Run
from greenagent.compress.training import precision
from greenagent.compress.training.precision import bf16_is_quicker, in_quickest
from greenagent.compress.training.spread import Spread
from greenagent.tasks import load_task

QUICKER = "greenagent.compress.training.precision.bf16_is_quicker"


def test_the_processor_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bf16_is_quicker.cache_clear()
    tried: list[torch.dtype] = []

    def seconds(dtype: torch.dtype) -> float:
        tried.append(dtype)
        return {torch.bfloat16: 2.0, torch.float32: 1.0}[dtype]

    monkeypatch.setattr(precision, "_seconds", seconds)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [bf16_is_quicker(), bf16_is_quicker()] == [False, False]
    assert tried == [torch.bfloat16, torch.float32]
    bf16_is_quicker.cache_clear()


@pytest.mark.parametrize(
    ("quicker", "options", "computed"),
    [
        (False, {}, torch.float32),
        (True, {}, torch.bfloat16),
        (False, {"quantize_aware": "Q8_0"}, torch.bfloat16),  # else other weights would be written than were trained
    ],
)
def test_training_computes_in_what_is_quicker_and_leaves_bfloat16(
    tiny_dir: Path,
    task_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quicker: bool,
    options: dict[str, Any],
    computed: torch.dtype,
) -> None:
    monkeypatch.setattr(QUICKER, lambda: quicker)
    candidate, task, seen = load_candidate(str(tiny_dir)), load_task(task_dir), set()
    before = candidate.model.lm_head.weight.detach().clone()
    trained = transformers.Trainer.training_step

    def training_step(self: Any, model: Any, *args: Any) -> Any:
        seen.add(next(model.parameters()).dtype)
        return trained(self, model, *args)

    monkeypatch.setattr(transformers.Trainer, "training_step", training_step)
    run = Run("r", task.interface(), task.splits["train"][:16], [], 0, tmp_path, lambda *_: None, lambda _: None, tmp_path)
    made = FineTune.model_validate({"batch_size": 8, "learning_rate": 1e-2, **options}).apply(candidate, run)
    assert seen == {computed}
    assert {parameter.dtype for parameter in made.model.parameters()} == {torch.bfloat16}
    assert not torch.equal(made.model.lm_head.weight, before)


def test_teachers_speak_in_what_is_quicker(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for quicker, expected in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(QUICKER, lambda quicker=quicker: quicker)
        [(model, _)] = Teachers.load([tiny_dir], load_candidate(str(tiny_dir)).tokenizer, []).models
        assert model.dtype == expected


def test_what_is_in_single_precision_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QUICKER, lambda: False)
    model = torch.nn.Linear(2, 2)
    with in_quickest(model, Spread()):
        assert model.weight.dtype == torch.float32
    assert model.weight.dtype == torch.float32
