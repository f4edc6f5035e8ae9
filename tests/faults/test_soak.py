"""Some minutes of everything at once."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any, Callable

import pytest

from tests.faults.proxy import (
    FIN,
    HALF,
    RST,
    BlackHole,
    Cut,
    Delay,
    Fault,
    Garbage,
    Slices,
    Stall,
    Throttle,
)

if TYPE_CHECKING:
    from tests.faults.conftest import Ensemble, Proxies
    from tests.faults.proxy import Proxy
    from tests.zookeeper import Node

pytestmark = [pytest.mark.faults, pytest.mark.soak, pytest.mark.timeout(600)]

#: How often something is broken and repaired in a round.
BREAKS = 8
ROUNDS = 4


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_soak(ensemble: Ensemble, proxies: Proxies, seed: int) -> None:
    """Minutes of faults of all kinds, several at once"""
    chance = random.Random(seed)
    zookeeper = ensemble.zookeeper
    servers = list(zip(zookeeper.nodes, proxies))
    with ensemble.load(proxies.hosts) as load:
        for _ in range(BREAKS):
            load.progress()
            broken = chance.sample(servers, chance.choice((1, 1, 2, 3)))
            for node, proxy in broken:
                break_one(node, proxy, chance)
            # The next fault, or the repair, comes at any moment.
            threading.Event().wait(chance.uniform(0.0, 3.0))
            ensemble.restore()
            proxies.restore()
        load.progress()


def break_one(node: Node, proxy: Proxy, chance: random.Random) -> None:
    """Break a server, or the way to it."""
    size = chance.choice((1, 7, 100, 3000))
    ways: list[Callable[[], Fault]] = [
        BlackHole,
        lambda: Cut(size, chance.choice((FIN, RST, HALF))),
        lambda: Delay(chance.uniform(0.0, 0.5)),
        lambda: Slices(size, chance.choice((0.0, 0.001))),
        Stall,
        lambda: Throttle(size * 100),
    ]
    breaks: list[Callable[[], Any]] = [
        node.kill,
        node.stop,
        node.suspend,
        lambda: proxy.cut(chance.choice((FIN, RST, HALF))),
    ]
    if chance.random() < 0.1:  # between two frames: inside, it could be a valid one
        proxy.down = Garbage(b"\xff" + chance.randbytes(size))
    elif chance.random() < 0.4:
        chance.choice(breaks)()
    else:
        for way in chance.sample(("up", "down"), chance.choice((1, 2))):
            setattr(proxy, way, chance.choice(ways)())
