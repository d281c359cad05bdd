from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from greenagent.ledger import open_ledger

APPENDER = Path(__file__).with_name("appender.py")


def storm(path: Path, kills: int, writer: str, seed: int) -> int:
    """Appends in a child, kills it at a random moment, and looks for everything it had acknowledged; again and again.

    Gives how many appends were acknowledged."""
    dice = random.Random(seed)
    acknowledged: set[str] = set()
    for kill in range(kills):
        child = subprocess.Popen([sys.executable, APPENDER, path, writer, "0"], stdout=subprocess.PIPE)
        assert child.stdout is not None
        first = b"" if kill % 5 == 4 else child.stdout.read(1)  # every fifth is killed while it starts and opens
        time.sleep(dice.uniform(0, 1.0 if kill % 5 == 4 else 0.3))
        os.kill(child.pid, signal.SIGKILL)
        said = (first + child.stdout.read()).decode()
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        *whole, _ = said.split("\n")
        assert kill % 5 == 4 or whole
        acknowledged.update(whole)
        if path.exists() and acknowledged:
            with open_ledger(path, readonly=True) as ledger:
                result = ledger.verify()
                assert result.ok, result.problems
                assert acknowledged <= {activity.id for activity in ledger.activities()}
    return len(acknowledged)


def test_kill_9_loses_nothing_that_was_acknowledged(path):
    assert storm(path, 5, "one", seed=1) > 0


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("writer", ["one", "-"])
def test_a_hundred_kills_lose_nothing_that_was_acknowledged(path, writer):
    assert storm(path, 100, writer, seed=2) > 0
