"""Is held up for longer than a session, and tells what its client says of that.

The arguments are the session's time-out, and whether the process keeps itself busy.
"""

from __future__ import annotations

import sys
import time

from tests.programs import arguments, new_client
from tests.support import wait_until


def spin(seconds: float) -> None:
    """Keep the interpreter's lock for so long."""
    sys.setswitchinterval(10 * seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    sys.setswitchinterval(0.005)


if __name__ == "__main__":
    session, how = float(arguments()[0]), arguments()[1]
    client = new_client()
    client._session_timeout = int(session * 1000)
    client.start()
    print(client.create("/alive-", ephemeral=True, sequence=True), flush=True)
    sys.stdin.readline()
    if how == "busy":
        spin(3 * session)

    def disconnects() -> tuple[object, ...]:
        found: tuple[object, ...] = client.handler.stats().disconnects
        return found

    wait_until(lambda: len(disconnects()) == 2, 20.0)
    lost, expired = client.handler.stats().disconnects
    print(lost.cause, expired.cause, expired.first_cause, flush=True)
    print(lost, expired, sep="\n", file=sys.stderr)
    client.stop()
    client.close()
