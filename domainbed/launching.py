"""Running a sweep: each job as soon as what it needs is done, those with the longest way first."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from tqdm import tqdm

from domainbed import planning, sweep
from domainbed.jobs import Job
from domainbed.lib.console import escape
from domainbed.planning import Kind

POLL_SECONDS = 1.0
"""Between two looks at what runs elsewhere."""

AFTER_SECONDS = 60.0
"""Between two calls of what is to be done while jobs run."""


def set_damaged_aside(jobs: Iterable[Job], hashed: bool = False) -> list[Job]:
    """Move those finished runs out of the way whose weights are damaged, saying so; return them."""
    from domainbed import verification  # torch, to look into weights

    depth = verification.HASH if hashed else verification.HEADER
    damaged = []
    for job in jobs:
        if not job.folder.is_done or job.folder.is_locked():
            continue
        if found := verification.damaged_weights(job.folder, depth):
            try:
                place = verification.set_aside(job.folder, job.root)
            except FileNotFoundError:  # another launch was first
                damaged.append(job)
            except OSError as error:
                why = f"{found[0]}; the run cannot be set aside: {error.strerror}"
                print(escape(why), file=sys.stderr)
            else:
                damaged.append(job)
                print(escape(f"{found[0]}; the run is in {place} now, and is done again"))
    return damaged


def check_needs(graph: Sequence[Job]) -> None:
    """Set aside what is damaged of the runs that jobs to be done need, and of those these need."""
    done = {job.output_dir for job in graph if job.folder.is_done}
    for job in reversed(graph):  # in a graph what is needed comes first
        if job.output_dir not in done:
            needed = {need.job.output_dir: need.job for need in job.needs}
            some = [needed[name] for name in sorted(done.intersection(needed))]
            done -= {job.output_dir for job in set_damaged_aside(some)}


class Queue:
    """The jobs of a graph that are not done; each is handed out once its needs are done.

    First the kind of jobs with the longest way to the end of the sweep, by what jobs of each kind
    have taken. A job that fails is handed out `retries` times more; it holds back those that need
    it and no others. One that runs elsewhere is handed out if it does not get done there. What a
    failed job needed is looked at once: damaged runs are set aside and handed out again.
    """

    def __init__(
        self,
        graph: list[Job],
        root: str,
        retries: int = 0,
        after: Callable[[], Any] = lambda: None,
    ) -> None:
        self.graph, self.retries, self.after = graph, retries, after
        self.done = {job.output_dir for job in graph if job.folder.is_done}
        self.running: dict[str, Job] = {}
        self.elsewhere: list[Job] = []
        self.n_failed = 0
        self._kinds = {job.output_dir: planning.kind_of(job, root) for job in graph}
        self._later: dict[Kind, set[Kind]] = {kind: set() for kind in self._kinds.values()}
        self._followers: dict[str, list[Job]] = defaultdict(list)
        self._n_open: dict[str, int] = {}
        self._ready: dict[Kind, deque[Job]] = defaultdict(deque)
        self._seconds: dict[Kind, float] = defaultdict(float)  # that its jobs took, in all
        self._n_timed: Counter[Kind] = Counter()
        self._tries: Counter[str] = Counter()
        self._checked: set[str] = set()
        self._looked = self._after_at = time.monotonic()
        for job in graph:
            self._add(job)

    def _add(self, job: Job) -> None:
        needed = {need.job.output_dir for need in job.needs}
        for name in needed:
            self._followers[name].append(job)
            self._later[self._kinds[name]].add(self._kinds[job.output_dir])
        self._n_open[job.output_dir] = len(needed - self.done)
        if job.output_dir not in self.done and needed <= self.done:
            self._make_ready(job)

    def _make_ready(self, job: Job) -> None:
        self._ready[self._kinds[job.output_dir]].append(job)

    def __len__(self) -> int:
        """How many can start now."""
        return sum(map(len, self._ready.values()))

    def take(self) -> str | None:
        """The command of the next job, whose folder is there; None if none can start now."""
        if time.monotonic() - self._looked >= POLL_SECONDS:
            self.look_elsewhere()
        while len(self):
            ways = self._ways()
            job = self._ready[max(filter(self._ready.get, ways), key=ways.__getitem__)].popleft()
            if job.folder.is_done:
                self._note_done(job)
            elif job.folder.is_locked():
                self.elsewhere.append(job)
            else:
                job.folder.path.mkdir(parents=True, exist_ok=True)
                self.running[job.command_str] = job
                return job.command_str
        return None

    def ended(self, command: str, seconds: float) -> None:
        """Note that a command ended; what became of its job is in the job's folder."""
        job = self.running.pop(command)
        self._tries[job.output_dir] += 1
        if job.folder.is_done:
            kind = self._kinds[job.output_dir]
            self._seconds[kind] += seconds
            self._n_timed[kind] += 1
            self._note_done(job)
        elif job.folder.is_locked():
            self.elsewhere.append(job)
        else:
            self._try_again(job)
        if time.monotonic() - self._after_at >= AFTER_SECONDS:
            self.after()
            self._after_at = time.monotonic()

    def _note_done(self, job: Job) -> None:
        if job.output_dir in self.done:
            return
        self.done.add(job.output_dir)
        for follower in self._followers[job.output_dir]:
            self._n_open[follower.output_dir] -= 1
            if not self._n_open[follower.output_dir]:
                self._make_ready(follower)

    def _try_again(self, job: Job) -> None:
        needed = {need.job.output_dir: need.job for need in job.needs}
        unseen = [other for name, other in needed.items() if name not in self._checked]
        self._checked.update(needed)
        for damaged in set_damaged_aside(unseen, hashed=True):
            self._make_anew(damaged)
        if not self.done.issuperset(needed):
            self._tries[job.output_dir] -= 1  # it is ready again when these are done
        elif self._tries[job.output_dir] <= self.retries:
            self._make_ready(job)
        else:
            self.n_failed += 1

    def _make_anew(self, job: Job) -> None:
        self.done.discard(job.output_dir)
        for follower in self._followers[job.output_dir]:
            self._n_open[follower.output_dir] += 1
            with contextlib.suppress(ValueError):  # it does not wait, but runs or is done
                self._ready[self._kinds[follower.output_dir]].remove(follower)
        self._make_ready(job)

    def look_elsewhere(self) -> None:
        """Take back what does not run elsewhere any more."""
        self._looked = time.monotonic()
        for job in [job for job in self.elsewhere if not job.folder.is_locked()]:
            self.elsewhere.remove(job)
            if job.folder.is_done:
                self._note_done(job)
            else:
                self._try_again(job)

    def _ways(self) -> dict[Kind, float]:
        """For each kind the seconds from its start to the end of all that follows."""
        seconds = {kind: self._seconds[kind] / n for kind, n in self._n_timed.items()}
        typical = fmean(seconds.values()) if seconds else 1.0
        ways: dict[Kind, float] = {}
        for kind in reversed(self._later):  # in a graph what is needed comes first
            later = (ways.get(other, 0.0) for other in self._later[kind])
            ways[kind] = seconds.get(kind, typical) + max(later, default=0.0)
        return dict(reversed(ways.items()))  # of equals the first


def launch(queue: Queue, launcher: Callable[[list[str]], Any], options: Mapping[str, str]) -> int:
    """Run all jobs of a queue and return an exit code; 0 means that all is done.

    A launcher that has `launch_queue(queue, options)` takes the jobs one by one; another one gets
    waves of commands: all that can start, again and again.
    """
    with _live_line(queue):
        while True:
            if hasattr(launcher, "launch_queue"):
                launcher.launch_queue(queue, options)
            elif not _launch_wave(queue, launcher):
                return 0
            queue.after()
            if not len(queue) and not queue.elsewhere:
                break
            if not len(queue):
                _wait_for_others(queue)
    return sweep.report(queue.graph, queue.done)


def _launch_wave(queue: Queue, launcher: Callable[[list[str]], Any]) -> bool:
    """Hand on all jobs that can start; False if the launcher returned before they ran."""
    commands = list(iter(queue.take, None))
    if not commands:
        return True
    jobs = [queue.running[command] for command in commands]
    launcher(commands)
    if not any((job.folder / "run.json").exists() for job in jobs):
        print(f"{len(jobs)} jobs were handed on; launch again when they have run.")
        return False
    for command in commands:
        queue.ended(command, 1.0)  # how long each took is not known
    return True


def _wait_for_others(queue: Queue) -> None:
    """Wait until one of the jobs that other processes run ends."""
    holder = queue.elsewhere[0].folder.holder() or "another process"
    print(f"{len(queue.elsewhere)} jobs run elsewhere, such as by {holder}; waiting", flush=True)
    while all(job.folder.is_locked() for job in queue.elsewhere):
        time.sleep(POLL_SECONDS)
    queue.look_elsewhere()


@contextmanager
def _live_line(queue: Queue) -> Iterator[None]:
    """Show how many jobs are done, failed and waiting, while they run."""
    bar = tqdm(total=len(queue.graph), initial=len(queue.done), unit="job", disable=None)
    if bar.disable:
        n = len(queue.graph)
        print(f"running {n - len(queue.done)} of {n} jobs, {len(queue.done)} are done", flush=True)
        yield
        return
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            running = list(queue.running.values())
            n_done = len(queue.done) + sum(job.folder.is_done for job in running)
            bar.update(n_done - bar.n)
            n_waiting = len(queue.graph) - n_done - queue.n_failed - len(running)
            bar.set_postfix(failed=queue.n_failed, waiting=max(0, n_waiting))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        bar.update(len(queue.done) - bar.n)
        bar.close()
