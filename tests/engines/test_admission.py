from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from greenagent.engines.admission import Admission


def test_bounded_by_batch_and_by_blocks_in_order() -> None:
    admission = Admission(blocks=10, block_tokens=32, max_batch=2, step_tokens=256)
    for name in "abc":
        admission.enqueue(name, 10, 10)
    assert admission.admit() == ["a", "b"]
    admission.release("a")
    admission.enqueue("long", 200, 88)  # 9 blocks and one to spare
    assert admission.admit() == ["c"]
    admission.release("b")
    admission.enqueue("late", 1, 1)
    assert admission.admit() == []  # nobody overtakes the long one
    admission.release("c")
    assert admission.admit() == ["long"]
    admission.release("long")
    assert admission.admit() == ["late"]


def test_a_cancelled_request_leaves_the_queue() -> None:
    admission = Admission(blocks=10, block_tokens=32, max_batch=1, step_tokens=256)
    admission.enqueue("a", 1, 1)
    admission.enqueue("b", 1, 1)
    admission.release("a")
    assert admission.admit() == ["b"]
    assert admission.fits(9 * 32)
    assert not admission.fits(9 * 32 + 1)


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 6)), min_size=1, max_size=12), st.integers(0, 2**32))
def test_accounted_tokens_add_up(requests: list[tuple[int, int]], seed: int) -> None:
    """Against a scheduler that fills prompts within a step's room and then decodes one token each."""
    rng = random.Random(seed)
    admission = Admission(blocks=200, block_tokens=32, max_batch=4, step_tokens=128)
    for i, (prompt, answer) in enumerate(requests):
        admission.enqueue(str(i), prompt, answer)
    left = {str(i): [prompt, answer] for i, (prompt, answer) in enumerate(requests)}
    running: list[str] = []
    prefill = dict.fromkeys(left, 0)
    decode = dict.fromkeys(left, 0)
    for _ in range(1000):
        running += admission.admit()
        if not running:
            break
        room, new = 128 - sum(not left[r][0] for r in running), {}
        for r in running:
            if left[r][0]:
                part = min(left[r][0], max(room, 0))
                left[r][0] -= part
                room -= part
                if left[r][0] or not part:
                    continue
            left[r][1] -= 1
            new[r] = 1
        filled, decoded = admission.account(new)
        for r, n in filled.items():
            prefill[r] += n
        for r, n in decoded.items():
            decode[r] += n
        for r in [r for r in running if not left[r][1]]:
            running.remove(r)
            admission.release(r)
        rng.shuffle(running)
    assert len(admission) == 0
    assert prefill == {str(i): prompt for i, (prompt, _) in enumerate(requests)}
    assert decode == {str(i): answer - 1 for i, (_, answer) in enumerate(requests)}
