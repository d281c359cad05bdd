from pathlib import Path

import pytest
import torch

from greenagent.compress.distill.exposure import measure_exposure
from greenagent.compress.distill.losses import Divergence, combined, divergence
from greenagent.compress.distill.on_policy import own_answers, prompts_of
from greenagent.compress.distill.signals import Signals
from greenagent.compress.distill.teacher import Teachers, vocabulary_map
from greenagent.compress.load import load_candidate
from greenagent.compress.prune.vocabulary import trim_vocabulary
from greenagent.compress.training.examples import IGNORED, Encoded, collate, encode, texts
from greenagent.compress.training.optimizer import MasterAdamW
from greenagent.compress.training.spread import Spread
from greenagent.core.errors import ModelError
from greenagent.tasks import load_task


def distributions(tokens: int = 5, words: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(tokens, words), torch.randn(tokens, words)


def test_forward_divergence_is_word_level_distillation() -> None:
    student, teacher = distributions()
    tau = 2.0
    q, p = (teacher / tau).softmax(-1), (student / tau).log_softmax(-1)
    by_hand = -(tau**2) * sum(float(q[t, v] * p[t, v]) for t in range(5) for v in range(11)) / 5
    values, ids = q.log().topk(11)
    assert float(divergence(student, values, ids, tau=tau)) == pytest.approx(by_hand, rel=1e-4)


def test_reverse_and_jensen_shannon_divergence_are_their_formulas() -> None:
    student, teacher = distributions()
    tau, beta = 1.5, 0.3
    q, p = (teacher / tau).softmax(-1), (student / tau).softmax(-1)
    m = beta * q + (1 - beta) * p

    def kl(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a * (a / b).log()).sum(-1).mean())

    said = q.log().topk(11)
    reverse = float(divergence(student, *said, tau=tau, kind="reverse"))
    mixed = float(divergence(student, *said, tau=tau, kind="jensen_shannon", beta=beta))
    assert reverse == pytest.approx(tau**2 * kl(p, q), rel=1e-3)
    assert mixed == pytest.approx(tau**2 * (beta * kl(q, m) + (1 - beta) * kl(p, m)), rel=1e-3)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
def test_the_best_student_is_the_teacher_however_few_tokens_are_kept(kind: Divergence) -> None:
    _, teacher = distributions()
    said = teacher.log_softmax(-1).topk(4)
    logits = (teacher + 3.0).clone().requires_grad_()  # the same distribution
    best = divergence(logits, *said, tau=1.0, kind=kind)
    best.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-5
    for _ in range(5):
        assert float(divergence(teacher + 0.3 * torch.randn_like(teacher), *said, tau=1.0, kind=kind)) > float(best.detach())


def test_additive_adds_and_convex_shares() -> None:
    supervised, taught = torch.tensor(2.0), torch.tensor(6.0)
    assert float(combined(supervised, taught, 0.5, "additive")) == 5.0
    assert float(combined(supervised, taught, 0.25, "convex")) == 3.0


def test_the_student_writes_its_own_answers(tiny_dir: Path) -> None:
    candidate = load_candidate(str(tiny_dir))
    end, pad = candidate.tokenizer.eos_token_id, candidate.tokenizer.pad_token_id
    rows: list[Encoded] = [
        {"input_ids": [7, 8, 9, 20, end], "labels": [IGNORED] * 3 + [20, end]},
        {"input_ids": [11, 21, end], "labels": [IGNORED, 21, end]},
    ]
    prompts = prompts_of(collate(rows, pad))
    assert prompts == [[7, 8, 9], [11]]
    torch.manual_seed(0)
    own = own_answers(candidate.model.train(), prompts, pad_id=pad, end_id=end, max_tokens=6, temperature=1.0)
    assert candidate.model.training
    for prompt, ids, labels in zip(prompts, own["input_ids"].tolist(), own["labels"].tolist(), strict=True):
        assert ids[: len(prompt)] == prompt
        answer = [label for label in labels if label != IGNORED]
        assert 1 <= len(answer) <= 6
        assert end not in answer[:-1]
        assert ids[len(prompt) : len(prompt) + len(answer)] == answer


def test_own_answers_end_where_the_engine_ends_them_and_no_penalty_shapes_them(tiny_dir: Path) -> None:
    candidate = load_candidate(str(tiny_dir))
    model, end, pad = candidate.model, candidate.tokenizer.eos_token_id, candidate.tokenizer.pad_token_id
    torch.manual_seed(0)
    free = own_answers(model, [[7, 8]] * 64, pad_id=pad, end_id=end, max_tokens=12, temperature=1.0)
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.max_length = 3
    torch.manual_seed(0)
    again = own_answers(model, [[7, 8]] * 64, pad_id=pad, end_id=end, max_tokens=12, temperature=1.0)
    assert torch.equal(free["input_ids"], again["input_ids"])
    assert model.generation_config.repetition_penalty == 50.0
    code = int(free["labels"][free["labels"] != IGNORED].mode().values)
    model.generation_config.eos_token_id = [end, code]
    torch.manual_seed(0)
    coded = own_answers(model, [[7, 8]] * 64, pad_id=pad, end_id=end, max_tokens=12, temperature=1.0)
    answers = [[label for label in row if label != IGNORED] for row in coded["labels"].tolist()]
    assert any(answer[-1] == code for answer in answers)
    assert all(not {code, end} & set(answer[:-1]) for answer in answers)


def test_signals_are_the_teachers_over_the_students_vocabulary(
    tiny_dir: Path, task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, task = load_candidate(str(tiny_dir)), load_task(task_dir)
    teacher.model.float()
    corpus = list(texts(task.splits["train"], task.interface()))
    student = trim_vocabulary(teacher.model, teacher.tokenizer, corpus)
    rows = encode(task.splits["train"][:6], task.interface(), student.tokenizer, 64)
    mapped = vocabulary_map(student.tokenizer, teacher.tokenizer, corpus[:20])
    assert mapped.tolist() == student.kept_ids
    teachers = Teachers([(teacher.model, mapped)])
    signals = Signals(tmp_path, rows)
    signals.compute(teachers, pad_id=2, tau=2.0, top_k=5, progress=lambda *_: None)
    row = rows[3]
    positions = [i - 1 for i, label in enumerate(row["labels"]) if label != IGNORED]
    with torch.inference_mode():
        logits = teacher.model(mapped[torch.tensor([row["input_ids"]])]).logits[0, positions][:, mapped]
    values, ids = (logits / 2.0).log_softmax(-1).topk(5)
    log_probs, said_ids = signals.of(3)
    assert torch.equal(said_ids, ids)
    assert torch.allclose(log_probs, values, atol=1e-4)
    few = teachers.say(collate(rows[:40], 2), 2.0, 5)
    monkeypatch.setattr("greenagent.compress.distill.teacher._POSITIONS", 7)
    for whole, parts in zip(few, teachers.say(collate(rows[:40], 2), 2.0, 5), strict=True):
        assert torch.allclose(whole.float(), parts.float(), atol=1e-4)  # however many positions are looked at at a time
    twice = Teachers([(teacher.model, mapped)] * 2).say(collate(rows[:1], 2), 2.0, 5)
    assert torch.allclose(twice[0], signals.of(0)[0], atol=1e-4)  # two equal teachers say what one says


class Counted(Teachers):
    """Teachers that count the rows they were asked about, and die after so many."""

    rows = 0
    lives = 1 << 30

    def say(self, batch: dict[str, torch.Tensor], tau: float, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.rows >= self.lives:
            raise KeyboardInterrupt
        self.rows += len(batch["labels"])
        return super().say(batch, tau, top_k)


def test_signals_cut_short_go_on_where_they_were(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    teacher, task = load_candidate(str(tiny_dir)), load_task(task_dir)
    rows = encode(task.splits["train"][:160], task.interface(), teacher.tokenizer, 64)
    mapped = torch.arange(len(teacher.tokenizer))

    def compute(folder: Path, teachers: Counted, spread: Spread | None = None) -> Signals:
        signals = Signals(folder, rows, rows_per_file=64)
        signals.compute(teachers, pad_id=2, tau=1.0, top_k=4, progress=lambda *_: None, spread=spread)
        return signals

    whole = compute(tmp_path / "whole", Counted([(teacher.model, mapped)]))
    dying = Counted([(teacher.model, mapped)])
    dying.lives = 128
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path / "cut", dying)
    assert not Signals(tmp_path / "cut", rows, rows_per_file=64).complete
    fresh = Counted([(teacher.model, mapped)])
    resumed = compute(tmp_path / "cut", fresh)
    assert fresh.rows == 160 - 128
    assert resumed.complete
    for rank in (1, 0):  # two processes, one after the other
        shared = compute(tmp_path / "shared", Counted([(teacher.model, mapped)]), Spread(rank=rank, count=2))
    for i in range(len(rows)):
        for other in (resumed, shared):
            assert all(torch.equal(a, b) for a, b in zip(whole.of(i), other.of(i), strict=True))
        assert len(whole.of(i)[0]) == len(rows.answer(i))


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


def test_exposure_bias_is_what_free_running_adds(tiny_dir: Path, task_dir: Path) -> None:
    student, teacher, task = load_candidate(str(tiny_dir)), load_candidate(str(tiny_dir)), load_task(task_dir)
    same = torch.arange(len(student.tokenizer))
    examples = task.splits["train"][:20]
    torch.manual_seed(0)
    none = measure_exposure(student, Teachers([(teacher.model, same)]), examples, task.interface())
    assert abs(none.forced) < 1e-2
    assert abs(none.free) < 1e-2
    with torch.no_grad():
        for weight in teacher.model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    other = measure_exposure(student, Teachers([(teacher.model, same)]), examples, task.interface())
    assert other.forced > 0.01
    assert other.free > 0.01
    assert other.excess == other.free / other.forced - 1
