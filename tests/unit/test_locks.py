"""Locks on files: who holds one, who is dead, and that two never hold it."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from domainbed.lib import locks
from domainbed.lib.locks import Holder, Lock, Locked


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lock"


def write(path, age=0.0, **changes):
    """Leave the lock of another holder, whose last heartbeat is so many seconds old."""
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(Holder.new(), **changes))))
    os.utime(path, (time.time() - age,) * 2)


def is_free(path):
    try:
        with Lock(path):
            return True
    except Locked:
        return False


def test_one_holds_it_at_a_time(path):
    with Lock(path):
        assert locks.is_held(path) and locks.holder_of(path).pid == os.getpid()
        with pytest.raises(Locked, match=f"process {os.getpid()} on "), Lock(path, seconds=0.1):
            pass
    assert not path.exists() and is_free(path)


def test_it_is_waited_for(path):
    lock = Lock(path)
    lock.__enter__()
    threading.Timer(0.2, lock.__exit__).start()
    with Lock(path, seconds=10):
        pass


def test_a_process_that_ended_here_holds_nothing(path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write(path, pid=ended.pid)
    assert not locks.is_held(path) and is_free(path)


def test_a_process_that_nobody_waited_for_has_ended_too(path):
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    started = locks._started(zombie.pid)
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    write(path, pid=zombie.pid, started=started)
    assert not locks.is_held(path)
    zombie.wait()


def test_another_process_of_the_same_number_is_not_the_holder(path):
    write(path, started="1")
    assert not locks.is_held(path) and is_free(path)
    write(path)
    assert locks.is_held(path) and not is_free(path)


ELSEWHERE = {"host": "node7", "place": "another boot", "pid": 1}


def test_elsewhere_the_heartbeat_tells(path):
    write(path, age=locks.STALE_SECONDS - 30, **ELSEWHERE)
    assert locks.is_held(path)
    write(path, age=locks.STALE_SECONDS + 30, **ELSEWHERE)
    assert not locks.is_held(path) and is_free(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 10_000, "[1]", "{}", '{"pid": 1}', json.dumps({"pid": -1})]
)
def test_a_damaged_lock_is_judged_by_its_heartbeat(path, text):
    path.write_text(text)
    assert locks.is_held(path) and not is_free(path)
    os.utime(path, (0, 0))
    assert not locks.is_held(path) and is_free(path)


def test_a_wrong_clock_takes_nothing_over(path, monkeypatch):
    write(path, **ELSEWHERE)
    now = time.time()
    monkeypatch.setattr(locks.time, "time", lambda: now + 3600)
    monkeypatch.setattr(locks, "_is_late", lambda path: False)
    assert not is_free(path) and path.exists()


def test_a_late_heartbeat_is_waited_for(path, monkeypatch):
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.6)
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.2)
    write(path, age=0.5, **ELSEWHERE)
    assert is_free(path)


def test_a_holder_shows_that_it_lives_and_learns_that_it_lost(path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)
    lost = threading.Event()
    with Lock(path, on_loss=lost.set):
        os.utime(path, (0, 0))
        while path.stat().st_mtime == 0:
            time.sleep(0.01)
        assert not lost.is_set()
        write(path, **ELSEWHERE)
        assert lost.wait(10)
    assert locks.holder_of(path).host == "node7"


def test_many_who_find_a_dead_holder_take_turns(path):
    holding, most, n_turns = 0, 0, 0

    def work():
        nonlocal holding, most, n_turns
        with Lock(path, seconds=60):
            holding += 1
            most = max(most, holding)
            n_turns += 1
            time.sleep(0.001)
            holding -= 1

    for _ in range(20):
        write(path, started="1")
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (most, n_turns) == (1, 120) and not list(path.parent.iterdir())


def test_who_died_while_taking_over_is_no_obstacle(path):
    write(path, started="1")
    write(path.with_name(".lock.next"), started="1")
    with Lock(path, seconds=5):
        pass
    assert not list(path.parent.iterdir())
