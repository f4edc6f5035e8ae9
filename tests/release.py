"""Check what is published as its users get it: ``python tests/release.py DIST``.

The wheel in the folder DIST is installed, and tested by the tests that the sdist there
holds, in a folder where nothing else of the project is. Then a newcomer's first steps.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# kazoo's own first example, with one word changed, and what is new.
NEWCOMER = """
import asyncio, os
from kazoo.client import KazooClient
from kazoo_seqthreading import SequentialThreadingHandler

hosts = os.environ["ZOOKEEPER_HOSTS"]
zk = KazooClient(hosts=hosts, handler=SequentialThreadingHandler())
zk.start()
zk.ensure_path("/my/favorite")
zk.create("/my/favorite/node", b"a value")

async def main():
    return await zk.get_async("/my/favorite/node")

print(*asyncio.run(main()))
print(zk.handler.stats())
zk.delete("/my", recursive=True)
zk.stop()
"""


def main() -> None:
    """Install, test, and try."""
    dist = Path(sys.argv[1]).resolve()
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    python = sys.executable
    run(python, "-m", "pip", "install", "--quiet", "--force-reinstall", str(wheel))
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder)
        (root,) = Path(folder).iterdir()
        # Not "python -m pytest", which would find the package in the sdist.
        run(str(Path(python).with_name("pytest")), *sys.argv[2:], cwd=root)
        zookeeper = [python, str(root / "tests" / "zookeeper.py"), "--"]
        run(*zookeeper, python, "-c", NEWCOMER, cwd=folder)
        compare = [python, "-m", "kazoo_seqthreading", "--seconds", "2", "--hosts"]
        shell = f'{" ".join(compare)} "$ZOOKEEPER_HOSTS"'
        run(*zookeeper, "/bin/sh", "-c", shell, cwd=folder)


def run(*command: str, cwd: str | Path | None = None) -> None:
    """Run a command, and end with its status if it fails."""
    status = subprocess.run(command, cwd=cwd, check=False).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
