from pathlib import Path

import pytest
import torch
from torch.nn import functional

from greenagent.compress.candidate import load_candidate
from greenagent.compress.distill.losses import additive, word_level_kd
from greenagent.compress.distill.signals import teacher_signals, vocabulary_map
from greenagent.compress.examples import IGNORED, encode, texts
from greenagent.compress.optimizer import MasterAdamW
from greenagent.compress.prune.vocabulary import trim_vocabulary
from greenagent.core.errors import ModelError
from greenagent.tasks import load_task


def test_word_level_kd_is_the_formula() -> None:
    torch.manual_seed(0)
    student, teacher, tau = torch.randn(5, 11), torch.randn(5, 11), 2.0
    q, p = (teacher / tau).softmax(-1), (student / tau).log_softmax(-1)
    by_hand = -(tau**2) * sum(float(q[t, v] * p[t, v]) for t in range(5) for v in range(11)) / 5
    values, ids = teacher.log_softmax(-1).topk(11)
    assert float(word_level_kd(student, values, ids, tau)) == pytest.approx(by_hand, rel=1e-5)


def test_additive_adds_alpha_times_kd() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(4, 7), torch.tensor([0, 1, 2, 3])
    teacher = torch.randn(4, 7).log_softmax(-1).topk(3)
    expected = functional.cross_entropy(logits, labels) + 0.5 * word_level_kd(logits, teacher[0], teacher[1], 1.0)
    assert torch.isclose(additive(logits, labels, (teacher[0], teacher[1]), alpha=0.5, tau=1.0), expected)


def test_signals_are_the_teachers_over_the_students_vocabulary(tiny_dir: Path, task_dir: Path) -> None:
    teacher, task = load_candidate(str(tiny_dir)), load_task(task_dir)
    teacher.model.float()
    corpus = list(texts(task.splits["train"], task.interface()))
    student = trim_vocabulary(teacher.model, teacher.tokenizer, corpus)
    rows = encode(task.splits["train"][:6], task.interface(), student.tokenizer, 64)
    mapped = vocabulary_map(student.tokenizer, teacher.tokenizer, corpus[:20])
    assert mapped.tolist() == student.kept_ids
    signals = teacher_signals(teacher.model, rows, mapped, pad_id=2, top_k=5, progress=lambda *_: None, batch_size=4)
    row = rows[3]
    positions = [i - 1 for i, label in enumerate(row["labels"]) if label != IGNORED]
    with torch.inference_mode():
        logits = teacher.model(mapped[torch.tensor([row["input_ids"]])]).logits[0, positions][:, mapped]
    values, ids = logits.log_softmax(-1).topk(5)
    assert torch.equal(signals.ids[3], ids)
    assert torch.allclose(signals.log_probs[3].float(), values, atol=1e-2)


def test_vocabularies_that_do_not_map_are_refused(tiny_dir: Path) -> None:
    student, teacher = (load_candidate(str(tiny_dir)).tokenizer for _ in range(2))
    student.add_tokens(["<|strange|>"])
    with pytest.raises(ModelError, match="1 student tokens are unknown to the teacher"):
        vocabulary_map(student, teacher, [])


def test_the_optimizer_keeps_updates_that_bfloat16_would_lose() -> None:
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = MasterAdamW([weight], lr=1e-4, weight_decay=0.0)
    for _ in range(60):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert weight.detach()[0].item() < 1.0  # 60 steps of 1e-4: each alone is below bfloat16's resolution at 1
    again = MasterAdamW([weight], lr=1e-4)
    again.load_state_dict(optimizer.state_dict())
    assert again.state[weight]["master"].dtype == torch.float32
    assert torch.equal(again.state[weight]["master"], optimizer.state[weight]["master"])
