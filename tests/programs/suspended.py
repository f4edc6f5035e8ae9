"""Asks when it is told to, and tells what it gets: it may be suspended meanwhile.

The argument is the session's time-out.
"""

from __future__ import annotations

import sys

from tests.programs import arguments, new_client

if __name__ == "__main__":
    states = list[str]()
    client = new_client()
    client._session_timeout = int(float(arguments()[0]) * 1000)
    client.start()
    client.add_listener(states.append)
    session = client.client_id
    print("ready", flush=True)
    sys.stdin.readline()
    print(client.get_async("/asked").get(timeout=20.0)[0].decode(), flush=True)
    client.exists("/")
    print(states, client.client_id == session, flush=True)
    client.stop()
    client.close()
