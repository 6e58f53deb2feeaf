"""Frees memory or disk for clients when it is short, by evicting the connections that hold most for longest.

:mod:`.overload` has one :class:`Shortage` for each of the two, and the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

from gevent import get_hub

from ..config import KIB
from ..core.accounts import NOTABLE, Account, Allowance

#: The fraction of the allowance that is granted beyond it while evicted connections end, which may take a while.
OVERDRAFT: Final = 1 / 8
#: The minimum number of bytes of an evicted connection while the allowance is exceeded by more than the margin.
LEAST_HELD: Final = 4 * KIB
#: Seconds between two searches for connections to evict.
LOOK: Final = 0.005
#: Seconds for an evicted connection to release its memory, before it can be evicted again, which closes it.
PATIENCE: Final = 0.5
#: A connection that is evicted again within this number of seconds is closed.
STRIKE: Final = 30.0


class Shortage:
    """One resource and the connections that hold it; decides which of them must release it when it is short.

    :param name: ``memory`` or ``disk``.
    :param grace: seconds for which a connection keeps the resource before it can be evicted.
    :param small: bytes that each connection may hold even if none are left.
    :param margin: the fraction of the allowance by which it may be exceeded before the grace ends and connections that hold little are
        evicted too.
    :param on_short: called at each shortage; must not wait.
    """

    __slots__ = (
        "_accounts",
        "_coming",
        "_grace",
        "_look",
        "_margin",
        "_on_short",
        "_small",
        "allowance",
        "evicted",
        "last",
        "name",
        "refused",
    )

    def __init__(
        self,
        name: str,
        allowance: Allowance,
        accounts: set[Account],
        *,
        grace: float,
        small: int,
        margin: float,
        on_short: Callable[[Shortage], None],
    ) -> None:
        self.name = name
        self.allowance = allowance
        self._accounts = accounts
        self._grace = grace
        self._small = small
        self._margin = margin
        self._on_short = on_short
        # Bytes that evicted connections still hold, and the time of the next search for further ones.
        self._coming = 0
        self._look = 0.0
        #: The time of the last shortage.
        self.last = -inf
        #: The numbers of evicted connections and of refused requests and messages since the start.
        self.evicted = 0
        self.refused = 0
        allowance.on_short = self.short

    def settle(self) -> None:
        """Forget the times of a shortage that is over; see :meth:`.overload.Overload._settle`."""
        self.last = -inf
        self._look = 0.0

    def _held(self, account: Account) -> tuple[int, float]:
        return (account.memory, account.since) if self.name == "memory" else (account.disk, account.disk_since)

    def short(self, account: Account | None, n: int) -> bool:
        """Make room for ``n`` more bytes for ``account``, or, if ``n`` is 0, for bytes that it has already taken; returns whether it gets
        them."""
        now = monotonic()
        self.last = now
        self._on_short(self)
        own = 0 if account is None else self._held(account)[0]
        if n and own + n <= self._small:
            self._make_room(n, now)
            return True
        allowance = self.allowance
        if (
            self._make_room(n, now)
            and (account is None or now - account.evicted >= PATIENCE)
            and (not n or n - allowance.left <= int(allowance.size * OVERDRAFT))
        ):
            return True
        if n:
            self.refused += 1
        return False

    def _make_room(self, n: int, now: float) -> bool:
        """Evict the connections that hold most for longest; returns whether that makes enough room."""
        allowance = self.allowance
        missing = n - allowance.left
        if now < self._look:
            return self._coming >= missing
        # More than is missing, so that not each request starts another search.
        wanted = missing + allowance.size // 16
        deep = allowance.left < -int(allowance.size * self._margin)
        grace = 0.0 if deep and self._small else self._grace
        least = LEAST_HELD if deep else NOTABLE
        candidates = []
        coming = 0
        for each in self._accounts:
            held, since = self._held(each)
            if held < least:
                continue
            age = now - since
            if now - each.evicted < PATIENCE:
                coming += held
            elif age >= grace:
                candidates.append((held * age, held, each))
        candidates.sort(key=_score, reverse=True)
        for _, held, each in candidates:
            if coming >= wanted:
                break
            coming += held
            self.evicted += 1
            _evict(each, now)
        self._coming = coming
        # Searches may take at most a tenth of the time.  After a search that found too little, the next one waits longer.
        self._look = monotonic() + max((monotonic() - now) * 10, LOOK if coming >= missing else PATIENCE / 10)
        return coming >= missing


def _score(candidate: tuple[float, int, Account]) -> float:
    return candidate[0]


def _evict(account: Account, now: float) -> None:
    """Evict a connection: the first time gracefully, the second time by closing it."""
    holders = None if now - account.evicted < STRIKE else account.holders
    account.evicted = now
    if holders:
        for holder in list(holders):
            holder.evict()
    elif account.close is not None:
        # In the hub, because the caller may be the connection itself.
        get_hub().loop.run_callback(account.close)
