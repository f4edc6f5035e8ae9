"""Splitting received bytes into frames, see the rules in ``_frames``."""

from __future__ import annotations

import errno
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kazoo_seqthreading._frames import MAX_FRAME, MIN_FRAME, FrameSplitter

WATCH_EVENT, HEARTBEAT = -1, -2

xids = st.one_of(st.sampled_from([WATCH_EVENT, HEARTBEAT]), st.integers(1, 2**31 - 1))
replies = st.tuples(xids, st.integers(MIN_FRAME, 80))


def frame(xid: int, size: int) -> bytes:
    """Return a frame with *size* bytes after its length."""
    head = size.to_bytes(4, "big") + xid.to_bytes(4, "big", signed=True)
    return head + bytes(size - 4)


# -- rule 1: complete frames -----------------------------------------------------------


@given(contents=st.lists(replies, max_size=12), data=st.data())
def test_parts_give_the_frames_that_were_sent(
    contents: list[tuple[int, int]], data: st.DataObject
) -> None:
    sent = [frame(xid, size) for xid, size in contents]
    stream = b"".join(sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    edges = [0, *sorted(cuts), len(stream)]
    complete = [sum(map(len, sent[:number])) for number in range(len(sent) + 1)]
    splitter, received, answered, latest = FrameSplitter(), b"", 0, list[int]()

    for begin, end in zip(edges, edges[1:]):
        frames = splitter.split(stream[begin:end])
        received += frames.data[: frames.end]
        answered += frames.replies
        latest += [frames.last_xid] if frames.last_xid else []
        assert len(received) == max(size for size in complete if size <= end)

    assert received == stream
    assert answered == sum(xid != WATCH_EVENT for xid, _ in contents)
    requested = [xid for xid, _ in contents if xid > 0]

    assert latest[-1:] == requested[-1:]
    assert not splitter.partial


def test_large_frame_in_many_parts_is_copied_once() -> None:
    size, part = 1 << 22, bytes(1 << 12)
    splitter = FrameSplitter()
    splitter.split(frame(1, size)[:8])

    tracemalloc.start()
    try:
        for _ in range(size // len(part) - 1):
            assert splitter.split(part).end == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert splitter.split(part).end == size + 4
    assert peak < 1.5 * size


# -- rule 2: lengths -------------------------------------------------------------------


@given(length=st.integers(-(2**31), 2**31 - 1), size=st.integers(8, 20))
def test_length_that_no_server_sends_is_an_error(length: int, size: int) -> None:
    data = (length.to_bytes(4, "big", signed=True) + bytes(16))[:size]

    if MIN_FRAME <= length <= MAX_FRAME:
        assert FrameSplitter().split(data).end in (0, 4 + length)
        return
    with pytest.raises(OSError, match=f"a frame of {length} bytes") as caught:
        FrameSplitter().split(data)

    assert caught.value.errno == errno.EPROTO


@pytest.mark.parametrize("length", [-1, 0, 15, MAX_FRAME + 1])
def test_length_is_checked_as_soon_as_it_is_there(length: int) -> None:
    splitter = FrameSplitter()
    splitter.split(frame(1, 16) + length.to_bytes(4, "big", signed=True))

    with pytest.raises(OSError, match=f"a frame of {length} bytes"):
        splitter.split(bytes(4))
