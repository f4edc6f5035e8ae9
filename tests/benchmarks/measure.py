"""Samples taken with equal care, and what they come to.

Rules:

1. What is compared is measured in one process, one right after the other, in rounds;
   every second round goes backwards, so that none always comes first.
2. The first round warms up and does not count.
3. The garbage collector is on, as it is in an application. Before every sample it has
   collected, and what existed before the first one it never looks at again.
4. Ratios are taken within a round, between neighbours: what slows the machine for a
   while slows both. All figures are medians, with the quartiles as their spread.
5. A sample that hangs ends the program, with the stacks of all threads.
"""

from __future__ import annotations

import faulthandler
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

#: How long one sample may take, in seconds.
HANG = 300.0


@dataclass(frozen=True)
class Sample:
    """What some operations took.

    :param cpu: the process's user and system time
    :param p50: the median of what each took, in seconds, where each was timed
    """

    operations: int
    seconds: float
    cpu: float
    p50: float = math.nan

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds

    @property
    def cpu_each(self) -> float:
        """CPU per operation, in microseconds."""
        return self.cpu / self.operations * 1e6

    @property
    def time_each(self) -> float:
        """Time per operation, in microseconds."""
        return self.seconds / self.operations * 1e6


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = list(values)
        if len(found) == 1:
            found *= 2
        low, median, high = statistics.quantiles(found, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Task:
    """What is measured in each round: the same work, done by several subjects.

    :param rounds: a limit, for what takes long
    :param warm_up: whether there is a round that does not count
    """

    title: str
    subjects: Mapping[str, Callable[[], Sample]]
    rounds: int | None = None
    warm_up: bool = True

    def counts_in(self, number: int) -> bool:
        """Tell whether round *number* is one of the task's; 0 is the warm-up."""
        if number == 0:
            return self.warm_up
        return self.rounds is None or number <= self.rounds


#: The samples of one task: of each subject as many, one per round.
Samples = Mapping[str, Sequence[Sample]]
Metric = Callable[[Sample], float]


def take(work: Callable[[], int]) -> Sample:
    """Measure *work*, which returns the number of its operations."""
    faulthandler.dump_traceback_later(HANG, exit=True)
    try:
        gc.collect()
        used, began = time.process_time(), time.perf_counter()
        operations = work()
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
    finally:
        faulthandler.cancel_dump_traceback_later()
    # A clock may be too coarse for very little work.
    return Sample(operations, max(seconds, 1e-9), max(cpu, 1e-9))


def take_each(call: Callable[[], object], operations: int) -> Sample:
    """Measure each of so many calls."""
    times = []

    def work() -> int:
        for _ in range(operations):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return operations

    return replace(take(work), p50=statistics.median(times))


def settle() -> None:
    """Have the garbage collector leave alone all that exists now."""
    gc.collect()
    if hasattr(gc, "freeze"):
        gc.freeze()


def run_rounds(
    tasks: Mapping[str, Task], rounds: int, step: Callable[[str], None]
) -> dict[str, Samples]:
    """Measure every task in every round.

    :param step: called before each sample with what it is
    :returns: the samples of each task
    """
    taken: dict[str, dict[str, list[Sample]]] = {
        key: {name: [] for name in task.subjects} for key, task in tasks.items()
    }
    settle()
    for number in range(rounds + 1):
        for key, task in tasks.items():
            if not task.counts_in(number):
                continue
            names = list(task.subjects)
            for name in names if number % 2 else reversed(names):
                step(f"round {number}/{rounds}  {task.title}, {name}")
                sample = task.subjects[name]()
                if number:
                    taken[key][name].append(sample)
    return dict(taken)


def count_samples(tasks: Mapping[str, Task], rounds: int) -> int:
    """Return how many samples :func:`run_rounds` takes."""
    return sum(
        len(task.subjects) * sum(map(task.counts_in, range(rounds + 1)))
        for task in tasks.values()
    )


def spread(samples: Samples, name: str, metric: Metric) -> Spread:
    """Return what *metric* says of a subject."""
    return Spread.of(map(metric, samples[name]))


def ratio(samples: Samples, name: str, to: str, metric: Metric) -> Spread:
    """Return a subject's *metric* as a multiple of another's."""
    return Spread.of(
        metric(one) / metric(other) for one, other in zip(samples[name], samples[to])
    )
