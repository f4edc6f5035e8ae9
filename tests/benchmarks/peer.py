"""One handler or client in a process of its own: ``peers`` starts it.

::

    python -m tests.benchmarks.peer NAME HOSTS PATH READS WINDOW

It prints one line of JSON: a sample of pipelined and one of synchronous reads. Nothing
else is imported before gevent and eventlet have patched the standard library.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

#: When a peer that hangs ends, in seconds, though its parent may have been killed.
LIFETIME = 120
#: Reads before the first sample, as a share of those of a sample.
WARM_UP = 0.2


def main() -> None:
    """Measure what the command line tells."""
    if hasattr(signal, "alarm"):
        signal.alarm(LIFETIME)
    name, hosts, path, reads, window = sys.argv[1:]
    if name == "aiozk":
        samples = _measure_aiozk(hosts, path, int(reads), int(window))
    elif name == "C client":
        samples = _measure_apache(hosts, path, int(reads), int(window))
    else:
        samples = _measure_kazoo(_make_handler(name), hosts, path, int(reads))
    print(json.dumps(samples))


def _make_handler(name: str) -> Any:
    if name == "gevent":
        from gevent import monkey

        monkey.patch_all()
        from kazoo.handlers.gevent import SequentialGeventHandler

        return SequentialGeventHandler()
    if name == "eventlet":
        import eventlet

        eventlet.monkey_patch()
        from kazoo.handlers.eventlet import SequentialEventletHandler

        return SequentialEventletHandler()
    from tests.benchmarks.subjects import HANDLERS

    return HANDLERS[name]()


def _measure_kazoo(handler: Any, hosts: str, path: str, reads: int) -> Any:
    from dataclasses import asdict
    from functools import partial

    from kazoo.client import KazooClient

    from tests.benchmarks.measure import take
    from tests.benchmarks.rows import pipelined, sync

    client = KazooClient(hosts, timeout=40.0, handler=handler)
    client.start()
    samples = {}
    try:
        for work, count in ((pipelined, reads), (sync, reads // 4)):
            work(client, path, int(count * WARM_UP))
            samples[work.__name__] = asdict(take(partial(work, client, path, count)))
    finally:
        client.stop()
        client.close()
    return samples


def _measure_apache(hosts: str, path: str, reads: int, window: int) -> Any:
    from dataclasses import asdict
    from functools import partial

    from tests.benchmarks.apache import Client
    from tests.benchmarks.measure import take

    client = Client(hosts)
    works = {
        "pipelined": (partial(client.pipelined, path, window=window), reads),
        "sync": (partial(client.sync, path), reads // 4),
    }
    samples = {}
    try:
        for name, (work, count) in works.items():
            work(int(count * WARM_UP))
            samples[name] = asdict(take(partial(work, count)))
    finally:
        client.close()
    return samples


def _measure_aiozk(hosts: str, path: str, reads: int, window: int) -> Any:
    import asyncio
    import gc
    import time
    from dataclasses import asdict

    import aiozk

    from tests.benchmarks.measure import Sample

    async def pipelined(client: Any, count: int) -> None:
        left = iter(range(count))

        async def read() -> None:
            for _ in left:
                await client.get_data(path)

        await asyncio.gather(*(read() for _ in range(window)))

    async def sync(client: Any, count: int) -> None:
        for _ in range(count):
            await client.get_data(path)

    async def measure() -> Any:
        client = aiozk.ZKClient(hosts, session_timeout=40.0)
        await client.start()
        samples = {}
        try:
            for work, count in ((pipelined, reads), (sync, reads // 4)):
                await work(client, int(count * WARM_UP))
                gc.collect()
                used, began = time.process_time(), time.perf_counter()
                await work(client, count)
                seconds = time.perf_counter() - began
                cpu = time.process_time() - used
                samples[work.__name__] = asdict(Sample(count, seconds, cpu))
        finally:
            await client.close()
        return samples

    return asyncio.run(measure())


if __name__ == "__main__":
    main()
