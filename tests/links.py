"""Make the links of the README absolute: ``python tests/links.py ADDRESS REF``.

PyPI shows the README where its relative links lead nowhere. The workflow that publishes
knows the repository's address; ADDRESS is that, and REF the tag that is published. The
address is written into ``pyproject.toml``, too, for PyPI's list of links.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: The address of a link or of a picture, if it is relative.
LINK = re.compile(r"(?<=<)(?![a-z]+:)[\w./-]+(?=>`__)")
PICTURE = re.compile(r"(?<=^\.\. image:: )(?![a-z]+:)\S+", re.MULTILINE)

URLS = """\
[project.urls]
Source = "{address}"
Documentation = "{address}/blob/{ref}/README.rst"
Changelog = "{address}/blob/{ref}/CHANGELOG.rst"
Issues = "{address}/issues"

"""
AFTER = "[dependency-groups]\n"


def absolute(readme: str, address: str, ref: str) -> str:
    """Return *readme* with absolute links."""
    readme = LINK.sub(lambda link: f"{address}/blob/{ref}/{link[0]}", readme)
    return PICTURE.sub(lambda link: f"{address}/raw/{ref}/{link[0]}", readme)


def with_urls(project: str, address: str, ref: str) -> str:
    """Return ``pyproject.toml`` with the project's addresses, if it has none."""
    if "[project.urls]" in project:
        return project
    return project.replace(AFTER, URLS.format(address=address, ref=ref) + AFTER, 1)


def main(address: str, ref: str) -> None:
    """Change both files."""
    for name, change in (("README.rst", absolute), ("pyproject.toml", with_urls)):
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        path.write_text(change(text, address, ref), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
