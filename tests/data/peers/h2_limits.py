"""Plays a scene about limits over HTTP/2 with 127.0.0.1:8080; ends with 0 if it went as it should."""

import sys
import time

sys.dont_write_bytecode = True

import h2.errors
import h2.events

from h2_peer import Peer


def answer(peer, stream):
    """Status and header fields; what follows them is read too."""
    head = peer.until(
        lambda event: isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream
    )
    assert head is not None, f"no answer to {stream}"
    peer.until(
        lambda event: isinstance(event, h2.events.StreamEnded) and event.stream_id == stream
    )
    fields = dict(head.headers)
    return int(fields[":status"]), fields


def take_back(peer, stream):
    peer.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
    peer.flush()


def until_admitted(peer, path="/"):
    """There is room again at once, once what was taken back is noticed."""
    begun = time.monotonic()
    while time.monotonic() - begun < 5:
        status, _ = answer(peer, peer.begin(path=path))
        if status == 200:
            return
        assert status == 429, status
        time.sleep(0.02)
    raise AssertionError("the place was not given back")


def counted():
    """Of many streams on one connection exactly as many as there is room for; then it goes on."""
    peer = Peer()
    answers = [answer(peer, stream) for stream in [peer.begin() for _ in range(40)]]
    admitted = [fields for status, fields in answers if status == 200]
    refused = [fields for status, fields in answers if status == 429]
    assert (len(admitted), len(refused)) == (10, 30), answers
    left = sorted(int(fields["x-ratelimit-remaining"]) for fields in admitted)
    assert left == list(range(10)), left
    for fields in admitted + refused:
        assert fields["x-ratelimit-limit"] == "10", fields
        assert fields["ratelimit-policy"].startswith('"a";q=10;w='), fields
        assert fields["ratelimit"].startswith('"a";r='), fields
        assert int(fields["x-ratelimit-reset"]) > time.time(), fields
    for fields in refused:
        assert fields["x-ratelimit-remaining"] == "0", fields
        assert int(fields["retry-after"]) >= 1, fields
        assert fields["content-type"] == "application/problem+json", fields
    # Nobody lost the connection for it, and bodies of refused requests do not matter to it.
    for _ in range(3):
        stream = peer.begin(end=False, method="POST", extra=[("content-length", "100000")])
        peer.h2.send_data(stream, b"x" * 1000)
        peer.flush()
        assert answer(peer, stream)[0] == 429
    for _ in range(5):
        assert answer(peer, peer.begin(path="/free"))[0] == 200
    ended = [event for event in peer.events if isinstance(event, h2.events.ConnectionTerminated)]
    assert not ended and not peer.closed, ended


def places():
    """Who takes a request back gives its place back, once; so does who leaves."""
    peer = Peer()
    held = [peer.begin(path="/stall"), peer.begin(path="/stall")]
    time.sleep(0.3)
    refused = [peer.begin() for _ in range(5)]
    for stream in refused:
        status, fields = answer(peer, stream)
        assert status == 429 and fields["ratelimit"].startswith('"a";r=0'), (status, fields)
    for turn in range(5):
        # Even while nothing of an answer came yet.
        take_back(peer, held.pop(0))
        until_admitted(peer)
        held.append(peer.begin(path="/stall"))
        time.sleep(0.1)
        assert answer(peer, peer.begin())[0] == 429, turn
    # While the answer comes.
    for stream in held:
        take_back(peer, stream)
    until_admitted(peer)
    until_admitted(peer)
    partly = [peer.begin(path="/slowly"), peer.begin(path="/slowly")]
    for stream in partly:
        begun = peer.until(
            lambda event: isinstance(event, h2.events.ResponseReceived)
            and event.stream_id == stream
        )
        assert begun is not None
    assert answer(peer, peer.begin())[0] == 429
    take_back(peer, partly[0])
    until_admitted(peer)
    # While the request's body is on its way.
    upload = peer.begin(end=False, method="POST", path="/echo", extra=[("content-length", "99")])
    time.sleep(0.1)
    assert answer(peer, peer.begin())[0] == 429
    take_back(peer, upload)
    until_admitted(peer)
    # What was refused has no place to give back.
    peer.begin(path="/stall")
    time.sleep(0.1)
    for _ in range(5):
        stream = peer.begin()
        take_back(peer, stream)
    assert answer(peer, peer.begin())[0] == 429
    peer.socket.close()
    other = Peer()
    until_admitted(other)
    held = [other.begin(path="/stall"), other.begin(path="/stall")]
    time.sleep(0.3)
    assert answer(other, other.begin())[0] == 429


globals()[sys.argv[1]]()
print("as it should")
