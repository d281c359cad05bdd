"""A process that appends until it is told or killed, and says on stdout what was acknowledged, one id per line.

    python appender.py LEDGER WRITER COUNT      (COUNT 0: for ever; WRITER "-": a chain of its own)

Ids are written with one `os.write` each, after the ledger acknowledged: what the reader sees was acknowledged for certain.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future
from datetime import UTC, datetime
from uuid import uuid4

from greenagent.core.records import Activity
from greenagent.ledger import StoredActivity, open_ledger

BURST = 25


def say(future: Future[StoredActivity]) -> None:
    try:
        os.write(1, f"{future.result().id}\n".encode())
    except BrokenPipeError:  # nobody listens any more: the test is over
        os._exit(1)


def main(url: str, writer: str, count: int) -> None:
    with open_ledger(url, writer=None if writer == "-" else writer) as ledger:
        done = 0
        while count == 0 or done < count:
            waiting = []
            for _ in range(BURST if count == 0 else min(BURST, count - done)):
                now = datetime.now(UTC)
                future = ledger.append(Activity(id=uuid4().hex, kind="request", name="storm", started_at=now, ended_at=now))
                future.add_done_callback(say)
                waiting.append(future)
            for future in waiting:
                future.result()
            done += len(waiting)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
