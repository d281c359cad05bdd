"""A process that reserves as much as it is told, says how much it got, and then sits on it.

python spender.py LEDGER KEY COUNT LEASE_S
"""

from __future__ import annotations

import sys
import time
from uuid import uuid4

from greenagent.ledger import Amounts, Ask, Budgets, Granted, open_ledger


def main(url: str, key_id: str, wanted: int, lease_s: float) -> None:
    with open_ledger(url, lease_s=lease_s) as ledger:
        budgets = Budgets(ledger)
        asks = [budgets.reserve(Ask(uuid4().hex, key_id, Amounts(1, 1, 0, 0))) for _ in range(wanted)]
        print(sum(isinstance(asked.result(), Granted) for asked in asks), flush=True)
        while True:
            time.sleep(lease_s / 5)
            budgets.renew().result()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
