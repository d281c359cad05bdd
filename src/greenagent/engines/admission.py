"""Who may enter the engine: a first-come queue bounded by batch size and by the blocks of the key-value cache.

The engine can stall when its cache is full, so a request enters only when the blocks of its whole prompt and longest answer are
free. Also keeps count of which step processed which prompt tokens.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Admission"]


class Admission:
    """Blocks are ``block_tokens`` tokens each; ``step_tokens`` is the most tokens one step processes."""

    def __init__(self, blocks: int, block_tokens: int, max_batch: int, step_tokens: int) -> None:
        self._free = blocks
        self._blocks = blocks
        self._block_tokens = block_tokens
        self._max_batch = max_batch
        self._step_tokens = step_tokens
        self._waiting: deque[tuple[str, int, int]] = deque()
        self._running: dict[str, int] = {}
        self._unfilled: dict[str, int] = {}

    @property
    def capacity_tokens(self) -> int:
        """The most tokens (prompt and answer) one request may need."""
        return (self._blocks - 1) * self._block_tokens

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def fits(self, tokens: int) -> bool:
        """Whether a request of so many tokens can ever enter."""
        return tokens <= self.capacity_tokens

    def enqueue(self, request_id: str, prompt_tokens: int, max_tokens: int) -> None:
        """Puts a request at the end of the queue."""
        self._waiting.append((request_id, prompt_tokens, self._need(prompt_tokens + max_tokens)))

    def admit(self) -> list[str]:
        """The requests that enter now, in order; strict first come, first served, so that a long one is never starved."""
        entered = []
        while self._waiting and len(self._running) < self._max_batch and self._waiting[0][2] <= self._free:
            request_id, prompt_tokens, need = self._waiting.popleft()
            self._free -= need
            self._running[request_id] = need
            self._unfilled[request_id] = prompt_tokens
            entered.append(request_id)
        return entered

    def release(self, request_id: str) -> None:
        """The request has ended, whether it ran or waited."""
        self._free += self._running.pop(request_id, 0)
        self._unfilled.pop(request_id, None)
        if any(row[0] == request_id for row in self._waiting):
            self._waiting = deque(row for row in self._waiting if row[0] != request_id)

    def account(self, tokens: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
        """Prompt and answer tokens per request that a step processed, from the new tokens it gave.

        A request's first token comes out of its prompt's last part; until then the step's remaining room is spent on prompts in
        the order they entered, as the scheduler does.
        """
        decode = {r: n for r, n in tokens.items() if n and r not in self._unfilled}
        prefill: dict[str, int] = {}
        room = self._step_tokens - len(decode)
        for request_id, left in list(self._unfilled.items()):
            if new := tokens.get(request_id, 0):
                prefill[request_id] = left
                if new > 1:
                    decode[request_id] = new - 1
                del self._unfilled[request_id]
                room -= left
            elif room > 0 and left > 1:
                part = min(left - 1, room)
                prefill[request_id] = part
                self._unfilled[request_id] = left - part
                room -= part
        return prefill, decode

    def _need(self, tokens: int) -> int:
        return -(-tokens // self._block_tokens) + 1
