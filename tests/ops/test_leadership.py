"""A leader is believed for as long as its Patroni proved it, and not a moment longer."""

from __future__ import annotations

import asyncio

from domicile.ops.leadership import LEASE_SECONDS, LOOP_SECONDS, PROOF_SECONDS, Leadership


class Node:
    """A Patroni whose answers and time the test owns; ``takes``: how long a question to it lasts."""

    def __init__(self) -> None:
        self.now = 100.0
        self.answer: bool | None = None
        self.takes = 0.0

    async def ask(self) -> bool | None:
        self.now += self.takes
        return self.answer


async def test_nothing_is_believed_before_the_first_answer_or_without_one() -> None:
    node = Node()
    leadership = Leadership(node.ask, lambda: node.now)
    assert not leadership.holds()
    await leadership.check()
    assert not leadership.holds()


async def test_a_yes_is_good_from_when_it_was_asked_for() -> None:
    node = Node()
    leadership = Leadership(node.ask, lambda: node.now)
    node.answer, node.takes = True, 2.0
    await leadership.check()
    node.now = 100.0 + PROOF_SECONDS - 0.001
    assert leadership.holds()
    node.now = 100.0 + PROOF_SECONDS
    assert not leadership.holds()


async def test_silence_prolongs_nothing_and_a_no_ends_it_at_once() -> None:
    node = Node()
    leadership = Leadership(node.ask, lambda: node.now)
    node.answer = True
    await leadership.check()
    node.answer, node.now = None, 104.0
    await leadership.check()
    assert leadership.holds()
    lost = asyncio.create_task(leadership.lost())
    await asyncio.sleep(0)
    node.answer = False
    await leadership.check()
    assert not leadership.holds()
    await asyncio.wait_for(lost, 1)
    node.answer = True
    await leadership.check()
    assert leadership.holds()


async def test_a_session_of_a_leader_that_fell_silent_is_ended_by_the_clock() -> None:
    now = asyncio.get_running_loop().time
    answers, ahead = iter([True]), [0.0]

    async def ask() -> bool | None:
        return next(answers, None)

    leadership = Leadership(ask, lambda: now() + ahead[0])
    await leadership.check()
    ahead[0] = PROOF_SECONDS - 0.05
    await asyncio.wait_for(leadership.lost(), 4)
    assert not leadership.holds()


def test_a_proof_is_over_before_another_node_can_have_the_lease() -> None:
    """At worst it was asked for just before the lease would have been renewed."""
    assert LOOP_SECONDS + PROOF_SECONDS < LEASE_SECONDS
