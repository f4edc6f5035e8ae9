"""Snapshots of a handler's statistics; they take no lock and change nothing."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from ._round_trips import total_round_trips
from ._stats import ConnectionStats, Stats

if TYPE_CHECKING:
    from ._core import Core
    from ._zk_loop import ConnectionThread


def snapshot(core: Core) -> Stats:
    """Return the statistics of the handler of *core*."""
    connections = core.connections
    traffics = tuple(connections.traffics)

    def total(name: str) -> int:
        return sum(getattr(traffic, name) for traffic in traffics)

    causes: dict[str, int] = {}
    for traffic in traffics:
        for cause, count in traffic.disconnects.items():
            if count:
                causes[cause] = causes.get(cause, 0) + count
    return Stats(
        running=core.running,
        completions=core.completions.stats(),
        watches=core.watches.stats(),
        connections_made=total("connections_made"),
        connections_failed=total("connections_failed"),
        requests=total("requests"),
        replies=total("replies"),
        bytes_sent=total("bytes_out"),
        bytes_received=total("bytes_in"),
        wake_ups=total("wake_ups"),
        spawned_threads=len(core.spawned),
        disconnects=tuple(connections.disconnects.copy()),
        disconnects_by_cause=causes,
        round_trips=total_round_trips([traffic.round_trips for traffic in traffics]),
        connections=tuple(
            stats
            for stats in map(_connection_stats, connections.threads())
            if stats is not None
        ),
    )


def _connection_stats(thread: ConnectionThread) -> ConnectionStats | None:
    connection = thread.socket()
    if connection is None or not connection.has_session():
        return None
    facts, now = connection.facts, monotonic()
    return ConnectionStats(
        server=facts.server,
        session_id=facts.session_id,
        session_timeout_seconds=facts.session_timeout,
        connected_seconds=now - facts.made_at,
        unheard_seconds=now - connection.heard_at,
        requests_unanswered=connection.unanswered(),
        oldest_unanswered_seconds=connection.oldest_unanswered(now),
        round_trips=total_round_trips([connection.round_trips]),
    )
