"""Accounts and allowances: what is granted, counted and told, at the limits and beside them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greendaphne.core.accounts import NOTABLE, Account, Allowance

#: Small, so that all limits are met exactly.
sizes = st.integers(0, 6)
STEPS = ("take", "note", "give", "account.take", "account.ask", "account.give")


class Holder:
    """Has bytes that it could release."""

    def evict(self) -> None:
        """Does nothing."""


@given(st.integers(0, 20), sizes, sizes, st.booleans(), st.lists(st.tuples(st.sampled_from(STEPS), sizes), max_size=12))
def test_each_step_is_counted_and_told(size: int, alert: int, returned: int, grants: bool, steps: list[tuple[str, int]]) -> None:
    allowance = Allowance(size)
    account = Account(allowance)
    told: list[object] = []

    def short(asking: Account | None, n: int) -> bool:
        told.append((asking, n))
        return grants

    allowance.alert, allowance.returned = alert, returned
    allowance.on_short = short
    allowance.on_alert = lambda: told.append("alert")
    allowance.on_returned = lambda: told.append("returned")
    left, memory = size, 0
    for step, n in steps:
        told.clear()
        expected: list[object] = []
        asking = account if step.startswith("account.") else None
        result: bool | None = None
        if step in ("take", "account.ask"):
            result = True
            if n > left:
                expected.append((asking, n))
                result = grants
        if result is not False:
            left += n if step.endswith("give") else -n
            if asking is not None:
                memory += n if not step.endswith("give") else -n
            if step in ("note", "account.take", "account.ask") and left < alert:
                expected.append("alert")
                if step == "account.take" and left < 0:
                    expected.append((account, 0))
            if step.endswith("give") and left > returned:
                expected.append("returned")
        assert getattr(allowance if asking is None else account, step.rpartition(".")[2])(n) is result
        assert (allowance.left, allowance.held, account.memory, told) == (left, size - left, memory, expected)


@given(sizes, sizes, sizes, sizes, sizes)
def test_what_belongs_in_memory(size: int, spill: int, held: int, n: int, share: int) -> None:
    allowance = Allowance(size, spill)
    account = Account(allowance)
    account.take(held)
    assert account.short is (size - held < spill)
    assert account.roomy(n, share) is (held + n <= share and size - held - n >= spill)


@pytest.mark.parametrize("way", ["take", "ask"])
def test_since_when_much_is_held(way: str) -> None:
    account = Account(Allowance(4 * NOTABLE))
    add = getattr(account, way)
    add(NOTABLE - 1)
    assert account.since == 0
    add(1)
    since = account.since
    assert since > 0
    add(1)
    assert account.since == since
    account.since = 0
    account.give(2)
    add(NOTABLE)
    assert account.since > 0


def held_by(account: Account) -> list[object]:
    return [*(account.holders or ())]


def ends(account: Account) -> object:
    return account.close


def test_the_end_of_a_connection_gives_all_back_once() -> None:
    allowance = Allowance(10)
    account = Account(allowance)
    account.take(4)
    account.connection = connection = Holder()
    account.enter(connection)
    assert ends(account) == connection.evict
    for _ in range(2):
        account.settle()
        assert (allowance.left, account.memory) == (10, 0)
        assert held_by(account) == []
        assert ends(account) is None
    # What ends late is not counted any more.
    account.take(3)
    account.give(3)
    assert account.ask(20)
    assert allowance.left == 10


def test_holders() -> None:
    account = Account()
    first, second = Holder(), Holder()
    account.leave(first)
    assert held_by(account) == []
    account.enter(first)
    account.enter(second)
    assert held_by(account) == [first, second]
    account.leave(first)
    account.leave(first)
    assert held_by(account) == [second]
    account.leave(second)
    assert held_by(account) == []


def test_another_size_leaves_what_is_held() -> None:
    allowance = Allowance(10)
    allowance.note(4)
    allowance.resize(3)
    assert (allowance.size, allowance.left, allowance.held) == (3, -1, 4)
