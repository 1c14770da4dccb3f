from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pywsapp._limits.budget import BudgetTable, MessageBudget, Rates

RATES = Rates(1, 2, None, 0)


def table(max_idle: int = 10, rates: Rates = RATES) -> BudgetTable[MessageBudget]:
    return BudgetTable(lambda _, now: MessageBudget(rates, now), max_idle)


def test_messages_and_bytes_are_both_counted_or_neither() -> None:
    budget = MessageBudget(Rates(1, 2, 10, 10), 0)
    assert [budget.take(11, 0), budget.take(10, 0)] == [False, True]  # the first one has cost no message
    assert not budget.take(1, 0)
    assert [budget.take(10, 1), budget.take(0, 1), budget.take(0, 1)] == [True, True, False]


def test_the_longer_wait_counts_and_can_be_given_back() -> None:
    budget = MessageBudget(Rates(1, 1, 10, 10), 0)
    assert budget.reserve(10, 0) == 0
    assert budget.reserve(50, 0) == 5
    budget.give_back(50)
    assert budget.reserve(0, 0) == 1
    assert MessageBudget(Rates(None, 0, 10, 10), 0).reserve(20, 0) == 1
    assert MessageBudget(Rates(1, 1, None, 0), 0).reserve(10**9, 0) == 0


def test_connections_of_one_client_share_a_budget() -> None:
    clients = table()
    first, second = clients.acquire("a", 0), clients.acquire("a", 0)
    assert first is second
    assert clients.acquire("b", 0) is not first
    assert len(clients) == 2


def test_a_client_that_comes_back_finds_its_budget() -> None:
    clients = table()
    assert all(clients.acquire("a", 0).take(0, 0) for _ in range(2))
    clients.release("a", 0)
    clients.release("a", 0)
    assert not clients.acquire("a", 0).take(0, 0)


def test_a_budget_that_has_filled_up_is_forgotten() -> None:
    clients = table()
    clients.acquire("unused", 0)
    clients.release("unused", 0)
    assert len(clients) == 0
    for name in "abc":
        clients.acquire(name, 0).take(0, 0)
        clients.release(name, 0)
    assert len(clients) == 3
    clients.acquire("d", 5).take(0, 5)
    clients.release("d", 5)
    assert len(clients) == 1


def test_idle_budgets_are_bounded_and_those_in_use_are_kept() -> None:
    clients = table(max_idle=10)
    used = clients.acquire("used", 0)
    for number in range(1000):
        name = str(number)
        clients.acquire(name, 0).take(0, 0)
        clients.release(name, 0)
        assert len(clients) <= 11
    assert clients.acquire("used", 0) is used


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.floats(0, 3)), max_size=80))
def test_the_table_never_gives_one_client_two_budgets_at_once(steps: list[tuple[int, bool, float]]) -> None:
    clients, held, now = table(max_idle=3), dict[str, list[MessageBudget]](), 0.0
    for number, opens, seconds in steps:
        now += seconds
        name = str(number)
        if opens:
            held.setdefault(name, []).append(clients.acquire(name, now))
            held[name][-1].take(0, now)
        elif held.get(name):
            held[name].pop()
            clients.release(name, now)
        assert all(len(set(map(id, budgets))) <= 1 for budgets in held.values())
        assert len(clients) <= sum(map(bool, held.values())) + 3
