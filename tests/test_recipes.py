"""kazoo's recipes and the rest of its interface, on one server and on three."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import (
    AuthFailedError,
    CancelledError,
    ConnectionClosedError,
    LockTimeout,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotReadOnlyCallError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.protocol.states import EventType, KeeperState
from kazoo.recipe.cache import TreeCache, TreeEvent
from kazoo.recipe.watchers import PatientChildrenWatch
from kazoo.security import make_digest_acl

from tests.background import in_background
from tests.support import TIMEOUT, MakeClient, wait_until
from tests.zookeeper import ZooKeeper


@pytest.fixture(scope="module", params=["one server", "three servers"])
def server_hosts(request: pytest.FixtureRequest, server_hosts: str) -> str:
    """What the clients of this module connect to."""
    if request.param == "one server":
        return server_hosts
    ensemble: ZooKeeper = request.getfixturevalue("ensemble")
    return ensemble.hosts


@pytest.fixture
def start(make_client: MakeClient) -> MakeClient:
    """Return a function that makes a started client."""

    def start(**options: Any) -> Any:
        client = make_client(**options)
        client.start(TIMEOUT)
        return client

    return start


# -- locks -------------------------------------------------------------------------


def test_lock(start: MakeClient) -> None:
    clients = [start(), start()]
    inside, most, total = 0, 0, 0

    def work(client: Any) -> None:
        nonlocal inside, most, total
        for _ in range(5):
            with client.Lock("/lock", "worker"):
                inside += 1
                most = max(most, inside)
                total += 1
                client.sync("/")  # time for another one to come in
                inside -= 1

    workers = [in_background(work, clients[number % 2]) for number in range(4)]
    for worker in workers:
        worker.result(TIMEOUT)
    assert (total, most, inside) == (20, 1, 0)
    clients[0].sync("/lock")  # its server may be behind that of the other

    assert clients[0].get_children("/lock") == []


def test_lock_that_is_taken(start: MakeClient) -> None:
    one, other = start(), start()
    taken, wanted = one.Lock("/lock", "one"), other.Lock("/lock", "other")
    assert taken.acquire()
    assert not wanted.acquire(blocking=False)
    with pytest.raises(LockTimeout):
        wanted.acquire(timeout=0.1)
    one.sync("/lock")
    assert one.Lock("/lock").contenders() == ["one"]

    waiting = in_background(wanted.acquire, timeout=TIMEOUT)
    wait_until(lambda: taken.contenders() == ["one", "other"])
    assert not waiting.done()
    one.stop()  # ends its session, and so gives up the lock
    assert waiting.result(TIMEOUT) is True
    assert wanted.contenders() == ["other"]
    wanted.release()


def test_lock_cancelled(start: MakeClient) -> None:
    one, other = start(), start()
    taken, wanted = one.Lock("/lock", "one"), other.Lock("/lock", "other")
    with taken:
        waiting = in_background(wanted.acquire)
        wait_until(lambda: taken.contenders() == ["one", "other"])
        wanted.cancel()
        with pytest.raises(CancelledError):
            waiting.result(TIMEOUT)
        wait_until(lambda: taken.contenders() == ["one"])


def test_read_and_write_lock(start: MakeClient) -> None:
    one, other = start(), start()
    first, second = one.ReadLock("/lock", "reader"), other.ReadLock("/lock", "reader")
    assert first.acquire(timeout=TIMEOUT)
    assert second.acquire(timeout=TIMEOUT)  # readers do not exclude each other
    writer = one.WriteLock("/lock", "writer")
    writing = in_background(writer.acquire, timeout=TIMEOUT)
    wait_until(lambda: len(one.get_children("/lock")) == 3)
    late = other.ReadLock("/lock", "late")
    assert not late.acquire(blocking=False)  # a reader waits behind a writer
    first.release()
    second.release()
    assert writing.result(TIMEOUT) is True
    reading = in_background(late.acquire, timeout=TIMEOUT)
    wait_until(lambda: len(one.get_children("/lock")) == 2)
    assert not reading.done()
    writer.release()
    assert reading.result(TIMEOUT) is True
    late.release()


def test_semaphore(start: MakeClient) -> None:
    one, other = start(), start()
    leases = [
        client.Semaphore("/semaphore", f"holder-{number}", max_leases=2)
        for number, client in enumerate((one, other, one))
    ]
    assert leases[0].acquire(timeout=TIMEOUT)
    assert leases[1].acquire(timeout=TIMEOUT)
    assert not leases[2].acquire(blocking=False)
    assert sorted(leases[2].lease_holders()) == ["holder-0", "holder-1"]
    waiting = in_background(leases[2].acquire, timeout=TIMEOUT)
    # The next in turn holds a lock beside the leases.
    wait_until(lambda: one.Lock("/semaphore-__lock__").contenders())
    assert not waiting.done()
    other.stop()
    assert waiting.result(TIMEOUT) is True
    assert sorted(leases[2].lease_holders()) == ["holder-0", "holder-2"]
    for lease in (leases[0], leases[2]):
        lease.release()


def test_election(start: MakeClient) -> None:
    one, other = start(), start()
    led: queue.Queue[str] = queue.Queue()
    may_end = threading.Event()

    def lead(name: str) -> None:
        led.put(name)
        assert may_end.wait(TIMEOUT)

    first = in_background(one.Election("/election", "one").run, lead, "one")
    assert led.get(timeout=TIMEOUT) == "one"
    election = other.Election("/election", "other")
    second = in_background(election.run, lead, "other")
    wait_until(lambda: election.contenders() == ["one", "other"])
    assert led.empty()
    one.stop()  # the leader is gone
    assert led.get(timeout=TIMEOUT) == "other"
    may_end.set()
    second.result(TIMEOUT)

    # The first has lost its session, and kazoo says so when it gives up the lead.
    assert first.exception(TIMEOUT) is not None
    assert election.contenders() == []


def test_election_cancelled(start: MakeClient) -> None:
    one, other = start(), start()
    leads, may_end = threading.Event(), threading.Event()

    def lead() -> None:
        leads.set()
        assert may_end.wait(TIMEOUT)

    first = in_background(one.Election("/election", "one").run, lead)
    assert leads.wait(TIMEOUT)
    election = other.Election("/election", "other")
    second = in_background(election.run, pytest.fail, "it leads")
    wait_until(lambda: election.contenders() == ["one", "other"])
    election.cancel()
    second.result(TIMEOUT)
    may_end.set()
    first.result(TIMEOUT)


# -- barriers, counters, parties ---------------------------------------------------


def test_barrier(start: MakeClient) -> None:
    one, other = start(), start()
    barrier = one.Barrier("/barrier")
    assert barrier.wait(0.0) is True  # there is none yet
    barrier.create()
    other.sync("/barrier")
    assert other.Barrier("/barrier").wait(0.1) is False
    waiting = in_background(other.Barrier("/barrier").wait, TIMEOUT)

    assert barrier.remove() is True
    assert waiting.result(TIMEOUT) is True
    assert barrier.remove() is False


def test_double_barrier(start: MakeClient) -> None:
    clients = [start() for _ in range(3)]
    clients[0].create("/barrier")
    barriers = [
        client.DoubleBarrier("/barrier", 3, f"member-{number}")
        for number, client in enumerate(clients)
    ]
    entering = [in_background(barrier.enter) for barrier in barriers[:2]]
    wait_until(lambda: len(clients[2].get_children("/barrier")) == 2)
    assert not any(future.done() for future in entering)
    barriers[2].enter()
    for future in entering:
        future.result(TIMEOUT)
    assert all(barrier.participating for barrier in barriers)

    leaving = [in_background(barrier.leave) for barrier in barriers[:2]]
    barriers[2].leave()
    for future in leaving:
        future.result(TIMEOUT)

    assert clients[0].get_children("/barrier") == []


def test_counter(start: MakeClient) -> None:
    clients = [start(), start()]

    def count(client: Any) -> None:
        counter = client.Counter("/counter")
        for _ in range(10):
            counter += 1

    for future in [in_background(count, clients[number % 2]) for number in range(4)]:
        future.result(TIMEOUT)
    clients[0].sync("/counter")
    counter = clients[0].Counter("/counter")
    assert counter.value == 40
    counter -= 2

    assert (counter.value, counter.pre_value, counter.post_value) == (38, 40, 38)


@pytest.mark.parametrize("kind", ["Party", "ShallowParty"])
def test_party(start: MakeClient, kind: str) -> None:
    one, other = start(), start()
    mine = getattr(one, kind)("/party", "one")
    theirs = getattr(other, kind)("/party", "other")
    mine.join()
    theirs.join()
    one.sync("/party")
    assert sorted(mine) == ["one", "other"]
    assert len(mine) == 2
    theirs.leave()
    one.sync("/party")
    assert list(mine) == ["one"]
    theirs.join()
    other.stop()  # its membership is ephemeral
    one.sync("/party")

    assert list(mine) == ["one"]


# -- queues ------------------------------------------------------------------------


def test_queue(start: MakeClient) -> None:
    one, other = start(), start()
    mine, theirs = one.Queue("/queue"), other.Queue("/queue")
    assert mine.get() is None
    for value, priority in ((b"second", 100), (b"third", 101), (b"first", 1)):
        mine.put(value, priority)
    other.sync("/queue")

    assert len(theirs) == 3
    assert [theirs.get() for _ in range(3)] == [b"first", b"second", b"third"]


def test_queue_of_many_consumers(start: MakeClient) -> None:
    clients = [start(), start()]
    values = {b"%d" % number for number in range(20)}
    for value in sorted(values):
        clients[0].Queue("/queue").put(value)

    def consume(client: Any) -> list[bytes]:
        client.sync("/queue")
        return list(iter(client.Queue("/queue").get, None))

    consumed: list[bytes] = []
    for future in [in_background(consume, clients[number % 2]) for number in range(4)]:
        consumed += future.result(TIMEOUT)

    assert sorted(consumed) == sorted(values)  # each one once


def test_locking_queue(start: MakeClient) -> None:
    one, other = start(), start()
    mine, theirs = one.LockingQueue("/queue"), other.LockingQueue("/queue")
    waiting = in_background(mine.get, TIMEOUT)
    theirs.put_all([b"a", b"b"])
    assert waiting.result(TIMEOUT) == b"a"
    assert mine.holds_lock()
    assert theirs.get(TIMEOUT) == b"b"
    other.stop()  # what it held is for the others again

    assert mine.consume()
    assert mine.get(TIMEOUT) == b"b"
    assert mine.consume()
    assert mine.get(0.1) is None
    assert len(mine) == 0


# -- partitions and leases ---------------------------------------------------------


def test_set_partitioner(start: MakeClient) -> None:
    items = tuple(range(7))

    def settle(*partitioners: Any) -> list[list[int]]:
        def settled() -> bool:
            for one in partitioners:
                if one.release:
                    one.release_set()
                elif one.allocating:
                    one.wait_for_acquire(0.2)
                assert not one.failed
            shares = [list(one) for one in partitioners]
            return all(one.acquired for one in partitioners) and (
                sorted(itertools.chain(*shares)) == list(items)
            )

        wait_until(settled)
        return [list(one) for one in partitioners]

    one, other = (
        start().SetPartitioner("/partitions", items, identifier=name, time_boundary=0.2)
        for name in ("one", "other")
    )
    shares = settle(one, other)
    assert sorted(map(len, shares)) == [3, 4]
    other.finish()
    assert other.failed
    assert settle(one) == [list(items)]
    one.finish()


def utcnow() -> datetime:
    return datetime(2026, 1, 1)


def test_non_blocking_lease(start: MakeClient) -> None:
    one, other = start(), start()
    hour = timedelta(hours=1)

    def later() -> datetime:
        return utcnow() + 2 * hour

    assert one.NonBlockingLease("/lease", hour, "one", utcnow)
    assert not other.NonBlockingLease("/lease", hour, "other", utcnow)
    assert one.NonBlockingLease("/lease", hour, "one", utcnow)  # renewed
    assert other.NonBlockingLease("/lease", hour, "other", later)
    assert not one.NonBlockingLease("/lease", hour, "one", later)


def test_multi_non_blocking_lease(start: MakeClient) -> None:
    hour = timedelta(hours=1)
    obtained = [
        bool(start().MultiNonBlockingLease(2, "/lease", hour, name, utcnow))
        for name in ("one", "two", "three")
    ]
    assert obtained == [True, True, False]


# -- watches -----------------------------------------------------------------------


def test_data_watch(start: MakeClient) -> None:
    one, other = start(), start()
    seen: queue.Queue[Any] = queue.Queue()

    def changed(data: Any, stat: Any, event: Any) -> bool:
        seen.put((data, stat and stat.version, event and event.type))
        return bool(data != b"last")

    one.DataWatch("/node", changed)
    assert seen.get(timeout=TIMEOUT) == (None, None, None)
    other.create("/node", b"0")
    assert seen.get(timeout=TIMEOUT) == (b"0", 0, EventType.CREATED)
    for number in range(1, 10):
        other.set("/node", b"%d" % number)
        assert seen.get(timeout=TIMEOUT) == (b"%d" % number, number, EventType.CHANGED)
    other.delete("/node")
    assert seen.get(timeout=TIMEOUT) == (None, None, EventType.DELETED)
    other.create("/node", b"last")
    assert seen.get(timeout=TIMEOUT) == (b"last", 0, EventType.CREATED)
    other.set("/node", b"not seen")
    one.sync("/node")

    assert one.get("/node")[0] == b"not seen"
    assert seen.empty()


def test_children_watch(start: MakeClient) -> None:
    one, other = start(), start()
    one.create("/parent")
    seen: queue.Queue[list[str]] = queue.Queue()
    one.ChildrenWatch("/parent", lambda children: seen.put(sorted(children)))
    expected: list[str] = []
    assert seen.get(timeout=TIMEOUT) == expected
    for number in range(5):
        other.create(f"/parent/{number}")
        expected.append(str(number))
        assert seen.get(timeout=TIMEOUT) == expected
    other.delete("/parent/0")

    assert seen.get(timeout=TIMEOUT) == expected[1:]


def test_patient_children_watch(start: MakeClient) -> None:
    one, other = start(), start()
    one.create("/parent")
    result = PatientChildrenWatch(one, "/parent", time_boundary=2.0).start()
    for number in range(3):
        other.create(f"/parent/{number}")
    children, changed = result.get(timeout=3 * TIMEOUT)
    assert sorted(children) == ["0", "1", "2"]
    assert not changed.ready()
    other.create("/parent/3")
    changed.get(timeout=TIMEOUT)


def test_watch_callbacks_may_call(start: MakeClient) -> None:
    client = start()
    got: queue.Queue[Any] = queue.Queue()
    client.create("/node", b"0")

    def changed(event: Any) -> None:
        got.put((event.path, client.get(event.path)[0]))

    client.get("/node", watch=changed)
    client.set("/node", b"1")

    assert got.get(timeout=TIMEOUT) == ("/node", b"1")


def test_tree_cache(start: MakeClient) -> None:
    one, other = start(), start()
    other.create("/tree/a/b", b"1", makepath=True)
    cache = TreeCache(one, "/tree")
    events: queue.Queue[Any] = queue.Queue()
    faults: list[Exception] = []
    cache.listen(events.put)
    cache.listen_fault(faults.append)

    def following(kind: int) -> Any:
        event = events.get(timeout=TIMEOUT)
        assert event.event_type == kind, event
        return event.event_data and (event.event_data.path, event.event_data.data)

    one.sync("/tree")
    cache.start()
    assert following(TreeEvent.NODE_ADDED) == ("/tree", b"")
    assert following(TreeEvent.NODE_ADDED) == ("/tree/a", b"")
    assert following(TreeEvent.NODE_ADDED) == ("/tree/a/b", b"1")
    assert following(TreeEvent.INITIALIZED) is None
    assert cache.get_data("/tree/a/b").data == b"1"
    other.set("/tree/a/b", b"2")
    assert following(TreeEvent.NODE_UPDATED) == ("/tree/a/b", b"2")
    other.create("/tree/a/c", b"3")
    assert following(TreeEvent.NODE_ADDED) == ("/tree/a/c", b"3")
    assert cache.get_children("/tree/a") == {"b", "c"}
    other.delete("/tree/a/b")
    assert following(TreeEvent.NODE_REMOVED) == ("/tree/a/b", b"2")
    assert cache.get_data("/tree/a/b") is None
    assert faults == []
    cache.close()


# -- the interface -----------------------------------------------------------------


def test_transaction(start: MakeClient) -> None:
    client = start()
    client.create("/a", b"0")
    transaction = client.transaction()
    transaction.check("/a", 0)
    transaction.create("/b", b"1")
    transaction.set_data("/a", b"2")
    transaction.create("/c")
    transaction.delete("/c")
    checked, created, changed, _, deleted = transaction.commit()
    assert (checked, created, changed.version, deleted) == (True, "/b", 1, True)
    assert sorted(client.get_children("/")) == ["a", "b"]

    failing = client.transaction()
    failing.delete("/b")
    failing.create("/a")
    failing.delete("/none")
    kinds = [type(result) for result in failing.commit()]

    assert kinds == [RolledBackError, NodeExistsError, RuntimeInconsistency]
    assert client.exists("/b")  # nothing of a transaction that fails is done


def test_chroot(start: MakeClient, hosts: str) -> None:
    outer = start()
    outer.ensure_path("/inner/root")
    inner = start(hosts=f"{hosts}/inner/root")
    events: queue.Queue[Any] = queue.Queue()
    assert inner.get_children("/", watch=events.put) == []
    assert inner.create("/a/b", b"1", makepath=True) == "/a/b"
    assert inner.create("/a/n-", sequence=True) == "/a/n-0000000001"
    assert inner.sync("/a") == "/a"
    event = events.get(timeout=TIMEOUT)
    assert (event.type, event.path) == (EventType.CHILD, "/")
    assert inner.transaction().commit() == []
    with inner.transaction() as transaction:
        transaction.create("/c")
    outer.sync("/inner/root")

    assert sorted(outer.get_children("/inner/root")) == ["a", "c"]
    assert outer.get("/inner/root/a/b")[0] == b"1"


def test_acl_and_auth(start: MakeClient) -> None:
    acl = [make_digest_acl("user", "password", all=True)]
    owner = start(auth_data=[("digest", "user:password")], default_acl=acl)
    owner.create("/secret", b"1")
    assert owner.get_acls("/secret")[0] == acl
    stranger = start()
    stranger.sync("/")
    with pytest.raises(NoAuthError):
        stranger.get("/secret")
    assert stranger.add_auth("digest", "user:password") is True
    assert stranger.get("/secret")[0] == b"1"
    stranger.restart()  # authenticates again
    assert stranger.get("/secret")[0] == b"1"
    owner.set_acls("/secret", [make_digest_acl("other", "password", all=True)])
    stranger.sync("/")
    with pytest.raises(NoAuthError):
        stranger.set("/secret", b"2")
    stranger.delete("/secret")  # for which the parent's list counts


def test_auth_fails(start: MakeClient) -> None:
    client = start()
    with pytest.raises(AuthFailedError):
        client.add_auth("unknown scheme", "user:password")
    # kazoo tries once more, then it closes the client.
    wait_until(client._connection.connection_stopped.is_set)
    wait_until(lambda: client.client_state == KeeperState.CLOSED)
    with pytest.raises(ConnectionClosedError):
        client.get_children("/")
    client.auth_data.clear()
    client.start()

    assert client.get_children("/") == []


@pytest.fixture
def minority() -> Iterator[ZooKeeper]:
    """An ensemble of which one server is left, which can only be read."""
    # A global session takes a quorum.
    config = {"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": "true"}
    with ZooKeeper(3, config=config) as zookeeper:
        client: Any = KazooClient(zookeeper.hosts)
        client.start(TIMEOUT)
        client.create("/read")
        client.stop()
        client.close()
        left = zookeeper.leader()
        for node in zookeeper.followers():
            node.kill()
        wait_until(lambda: left.mode() == "read-only")
        yield zookeeper


@pytest.mark.parametrize("server_hosts", ["one server"], indirect=True)
def test_read_only(start: MakeClient, minority: ZooKeeper) -> None:
    client = start(hosts=minority.hosts, read_only=True, timeout=4.0)
    assert client.client_state == KeeperState.CONNECTED_RO
    assert "read" in client.get_children("/")
    with pytest.raises(NotReadOnlyCallError):
        client.create("/read/a")
    with pytest.raises(NoNodeError):
        client.get("/none")
    minority.restore()
    # With each heartbeat kazoo asks a server whether it can be written to.
    wait_until(lambda: client.client_state == KeeperState.CONNECTED, 30.0)

    assert client.create("/read/a") == "/read/a"
