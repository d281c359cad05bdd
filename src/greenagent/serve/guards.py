"""What stands before and behind a gateway's answers, over one ledger: keys, their limits, the admin surface, kept contents."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from itertools import islice

from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import GreenagentError, InputError
from greenagent.ledger import Budgets, Contents, Keys, Ledger, open_ledger
from greenagent.serve.accounts import Accounts
from greenagent.serve.admin import Admin
from greenagent.serve.admission import Admission
from greenagent.serve.config import ServeConfig
from greenagent.serve.estimates import Estimates
from greenagent.serve.keys import ApiKeys, KeyRing, check_exposure
from greenagent.serve.transcripts import Transcripts
from greenagent.serve.upkeep import upkeep

__all__ = ["Guards", "check_open_to"]

_PAST = 100


class Guards:
    """Made of a config, its ledger, and the keys that files or the environment name."""

    def __init__(
        self, options: ServeConfig, ledger: Ledger, keys: ApiKeys | None, admin_key: ApiKeys | None, clock: Clock
    ) -> None:
        stored = Keys(ledger)
        self.ring = KeyRing(keys, stored, clock)
        self.admin = None if admin_key is None else Admin(admin_key, stored, self.ring)
        self._ledger = ledger
        self._clock = clock
        self._budgets = Budgets(ledger)
        self._contents = Contents(ledger)
        self.transcripts = Transcripts(self._contents, options.content_days) if options.store_content else None

    def admission(self, accounts: Accounts, model: str) -> Admission:
        """Its first estimates are from what the ledger knows of this model."""
        newest = islice(self._ledger.activities(kind="request", newest_first=True), _PAST)
        past = [activity for activity in newest if activity.name == model]
        return Admission(self._budgets, Estimates(accounts, reversed(past)), self._clock)

    def upkeep(self) -> AbstractAsyncContextManager[None]:
        """Keeps all of it going while the block lasts."""
        return upkeep(self.ring, self._budgets, self._contents)


def check_open_to(options: ServeConfig, keys: ApiKeys | None) -> None:
    """`greenagent.serve.keys.check_exposure`, for keys in the config's ledger too. It is only read, and not made."""
    try:
        check_exposure(options.host, keys)
    except InputError:
        try:
            with open_ledger(options.ledger, readonly=True) as ledger:
                stored = KeyRing(None, Keys(ledger), SystemClock())
        except GreenagentError:
            stored = None
        check_exposure(options.host, stored)
