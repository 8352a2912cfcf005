"""Threads that nothing waits for."""

from __future__ import annotations

import threading

import pytest

from eto_agents.threads import ActionTimeoutError, Threads, Worker


def test_a_worker() -> None:
    worker = Worker()
    assert worker.call(5, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        worker.call(5, divmod, 7, 0)
    release = threading.Event()
    with pytest.raises(ActionTimeoutError, match=r"no answer within 0\.05 s") as caught:
        worker.call(0.05, release.wait)
    assert "wait" in caught.value.place
    assert worker.call(5, max, 1, 2) == 2  # the old thread's late answer is discarded
    release.set()
    assert worker.call(5, max, 3, 2) == 3


def test_threads_end_with_their_worker() -> None:
    workers = [Worker() for _ in range(5)]
    threads = [worker.call(60, threading.current_thread) for worker in workers]
    assert len(set(threads)) == 5
    assert all(thread.name == "eto-agent" and thread.is_alive() for thread in threads)
    workers.clear()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_calls_under_way_at_once() -> None:
    threads = Threads()
    both_are_there = threading.Barrier(2)
    threads.start(3, both_are_there.wait, 60)
    threads.start(5, both_are_there.wait, 60)
    outcomes = threads.wait()
    while len(outcomes) < 2:
        outcomes += threads.wait()
    assert sorted(outcome.key for outcome in outcomes) == [3, 5]
    assert sorted(outcome.value for outcome in outcomes) == [0, 1]
    threads.start(3, divmod, 7, 0)
    [outcome] = threads.wait()
    assert (outcome.key, outcome.value) == (3, None)
    assert isinstance(outcome.error, ZeroDivisionError)


def test_a_key_has_one_thread() -> None:
    threads = Threads()
    seen = []
    for key in (1, 2, 1, 2):
        threads.start(key, threading.current_thread)
        [outcome] = threads.wait()
        seen.append(outcome.value)
    assert seen[:2] == seen[2:]
    assert len(set(seen)) == 2
    assert all(thread.daemon for thread in seen)


def test_closing_does_not_wait_and_the_threads_end() -> None:
    threads = Threads()
    threads.start(0, threading.current_thread)
    [outcome] = threads.wait()
    release = threading.Event()
    threads.start(0, release.wait, 60)
    threads.close()
    assert outcome.value.is_alive()
    release.set()
    outcome.value.join(timeout=60)
    assert not outcome.value.is_alive()
