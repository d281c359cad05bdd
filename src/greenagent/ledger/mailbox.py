"""A bounded queue that hands over everything that waits, in batches."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

from greenagent.core.errors import GreenagentError

__all__ = ["Mailbox"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Many threads put, one takes. ``put`` waits while ``capacity`` items lie in it; after ``close`` it refuses."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._closed = False
        lock = threading.Lock()
        self._filled = threading.Condition(lock)
        self._drained = threading.Condition(lock)

    @property
    def full(self) -> bool:
        """Whether ``put`` would wait now."""
        return len(self._items) >= self._capacity

    def put(self, item: T) -> None:
        """Leaves ``item`` for the taker. Raises `GreenagentError` once the mailbox is closed."""
        with self._filled:
            while self.full and not self._closed:
                self._drained.wait()
            if self._closed:
                raise GreenagentError("the ledger is closed: open it again to append")
            self._items.append(item)
            self._filled.notify()

    def take(self, most: int) -> list[T]:
        """Waits for items and returns at most ``most`` of them, oldest first; an empty list: closed, and nothing is left."""
        with self._filled:
            while not self._items and not self._closed:
                self._filled.wait()
            was_full = self.full
            batch = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            if was_full:
                self._drained.notify_all()
            return batch

    def close(self) -> None:
        """Refuses new items; what lies here can still be taken."""
        with self._filled:
            self._closed = True
            self._filled.notify_all()
            self._drained.notify_all()
