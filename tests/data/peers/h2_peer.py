"""Plays a scene over HTTP/2 with 127.0.0.1:8080; ends with 0 if it went as it should."""

import socket
import struct
import sys
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings


class Peer:
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", 8080), timeout=10)
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            # What is sent is wrong on purpose in some scenes.
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.flush()
        self.events = []
        self.closed = False

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def head(self, path="/", method="GET", extra=(), host="a.test"):
        head = [(":method", method), (":path", path), (":scheme", "http")]
        return head + ([(":authority", host)] if host else []) + list(extra)

    def begin(self, end=True, **head):
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, self.head(**head), end_stream=end)
        self.flush()
        return stream

    def until(self, wanted):
        """The first event that is wanted; None when the connection ends before."""
        while True:
            for index, event in enumerate(self.events):
                if wanted(event):
                    return self.events.pop(index)
            if self.closed:
                return None
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                self.closed = True
                continue
            try:
                self.events += self.h2.receive_data(data)
            except h2.exceptions.ProtocolError:
                self.closed = True
            self.flush_quietly()

    def flush_quietly(self):
        try:
            self.flush()
        except OSError:
            self.closed = True

    def answer(self, stream):
        """Status and body, or the error that the stream was reset with."""
        body, status = b"", None
        while True:
            event = self.until(lambda event: getattr(event, "stream_id", None) == stream)
            if event is None:
                return "closed", body
            if isinstance(event, h2.events.ResponseReceived):
                status = int(dict(event.headers)[":status"])
                assert "connection" not in dict(event.headers), event.headers
            elif isinstance(event, h2.events.DataReceived):
                body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
                self.flush_quietly()
            elif isinstance(event, h2.events.StreamReset):
                return f"reset {event.error_code}", body
            elif isinstance(event, h2.events.StreamEnded):
                return status, body

    def is_closed_within(self, seconds):
        self.socket.settimeout(seconds)
        try:
            self.until(lambda event: False)
        except (TimeoutError, socket.timeout):
            return False
        return self.closed

    def raw(self, kind, flags, stream, payload):
        head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags])
        self.socket.sendall(head + struct.pack(">I", stream) + payload)


def many():
    """Many requests at a time, with bodies, answered on one connection."""
    peer = Peer()
    streams = [peer.begin(path=f"/get/{number}") for number in range(40)]
    upload = peer.begin(end=False, path="/echo", method="POST", extra=[("content-length", "150000")])
    left = 150000
    while left:
        room = min(left, peer.h2.local_flow_control_window(upload), 16384)
        if room == 0:
            peer.until(lambda event: isinstance(event, h2.events.WindowUpdated))
            continue
        peer.h2.send_data(upload, b"x" * room, end_stream=left == room)
        peer.flush()
        left -= room
    for stream in streams:
        assert peer.answer(stream) == (200, b"origin"), stream
    status, body = peer.answer(upload)
    assert status == 200 and body == b"x" * 150000, (status, len(body))


def refused():
    """What is malformed is refused on its stream; the others go on."""
    peer = Peer()
    for extra, host in [
        ([("connection", "close")], "a.test"),
        ([("transfer-encoding", "chunked")], "a.test"),
        ([("te", "gzip")], "a.test"),
        ([("host", "b.test")], "a.test"),
        ([("content-length", "1")], "a.test"),
        ([], "a.test/x"),
        ([], ""),
        ([(":path", "/other")], "a.test"),
    ]:
        stream = peer.begin(extra=extra, host=host)
        status, _ = peer.answer(stream)
        assert status == 400 or str(status).startswith("reset"), (extra, host, status)
    # What another parser could not even read ends the connection.
    upper = Peer()
    assert upper.answer(upper.begin(extra=[("Upper", "1")]))[0] != 200
    stream = peer.begin(method="CONNECT")
    assert peer.answer(stream)[0] != 200
    assert peer.answer(peer.begin())[0] == 200


def bounds():
    """The bounds are announced, and what goes beyond is refused."""
    peer = Peer()
    peer.until(lambda event: isinstance(event, h2.events.RemoteSettingsChanged))
    settings = peer.h2.remote_settings
    assert settings.max_concurrent_streams == 100, settings
    # What is read of a head; what may be in one is a quarter.
    assert settings.max_header_list_size == 128000, settings
    many_fields = [(f"x-field-{number}", "1" * 20) for number in range(101)]
    status, _ = peer.answer(peer.begin(extra=many_fields))
    assert status == 431, status
    for size in [32000, 100000]:
        status, body = peer.answer(peer.begin(extra=[("x-long", "1" * size)]))
        assert status == 431 and b"request_id" in body, (status, body)
    status, _ = peer.answer(peer.begin(extra=[("x-long", "1" * 150000)]))
    assert status == 431 or str(status).startswith(("reset", "closed")), status


def resets():
    """Requests that are taken back at once end the connection."""
    peer = Peer()
    begun = time.monotonic()
    while not peer.closed and time.monotonic() - begun < 10:
        for _ in range(20):
            try:
                stream = peer.begin(path="/stall")
                peer.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
            except h2.exceptions.ProtocolError:
                peer.closed = True
                break
            except OSError:
                peer.closed = True
                break
            peer.flush_quietly()
        time.sleep(0.01)
        peer.socket.setblocking(False)
        try:
            data = peer.socket.recv(65536)
            if not data:
                peer.closed = True
            else:
                peer.h2.receive_data(data)
                peer.flush_quietly()
        except BlockingIOError:
            pass
        except (OSError, h2.exceptions.ProtocolError):
            peer.closed = True
        peer.socket.setblocking(True)
    assert peer.closed, "it goes on for ever"


def silent():
    """A preface and nothing more, an unfinished head, and an idle connection are ended."""
    waiting = Peer()
    unfinished = Peer()
    # A literal field without indexing, and CONTINUATION never comes.
    unfinished.raw(1, 0, 1, bytes([0x82]))
    half = socket.create_connection(("127.0.0.1", 8080), timeout=10)
    half.sendall(b"PRI * HTTP/2.0\r\n")
    idle = Peer()
    assert idle.answer(idle.begin())[0] == 200
    assert waiting.is_closed_within(5) and unfinished.is_closed_within(5)
    half.settimeout(5)
    while half.recv(4096):
        pass
    # It is told which requests were not taken: GOAWAY. The library forgets that it was.
    idle.socket.settimeout(5)
    said = b""
    while data := idle.socket.recv(4096):
        said += data
    assert b"\0\0\x08\x07\0\0\0\0\0" in said, said


def plain():
    """A body of which the head says nothing is seen where nothing but redirects is served."""
    peer = Peer()
    assert peer.answer(peer.begin())[0] == 308
    stream = peer.begin(end=False)
    peer.h2.send_data(stream, b"secret", end_stream=True)
    peer.flush()
    assert peer.answer(stream)[0] == 403


def floods():
    """Frames that cost us and say nothing end the connection."""
    for kind, flags, stream, payload in [
        (9, 0, 1, b""),  # CONTINUATION without end
        (0, 0, 5, b"x"),  # DATA on no stream
        (8, 0, 0, b"\0\0\0\0"),  # WINDOW_UPDATE by nothing
        (4, 0, 0, b"123"),  # SETTINGS of a wrong size
    ]:
        peer = Peer()
        if kind == 9:
            peer.raw(1, 0, 1, bytes([0x82]))
        try:
            for _ in range(20000):
                peer.raw(kind, flags, stream, payload)
        except OSError:
            pass
        assert peer.is_closed_within(5), kind


def dribble():
    """A head that goes on for ever ends the connection, also behind good requests."""
    for in_flight in [False, True]:
        peer = Peer()
        assert peer.answer(peer.begin())[0] == 200
        if in_flight:
            peer.begin(path="/stall")
        stream = peer.h2.get_next_available_stream_id()
        begun = time.monotonic()
        peer.raw(1, 1, stream, bytes([0x82, 0x84, 0x86]))
        peer.socket.settimeout(0.2)
        while time.monotonic() - begun < 10:
            try:
                # A field of one letter without indexing.
                peer.raw(9, 0, stream, b"\0\1a\1b")
                if not peer.socket.recv(4096):
                    break
            except TimeoutError:
                pass
            except OSError:
                break
        took = time.monotonic() - begun
        assert 0.8 < took < 4, took


def trailers():
    """Trailers reach the origin within their bound, and never what begins with a colon."""
    peer = Peer()

    def send(fields):
        stream = peer.begin(end=False, method="POST", path="/echo")
        peer.h2.send_data(stream, b"hi")
        peer.flush()
        fields = peer.h2.encoder.encode(fields)
        parts = [fields[at : at + 16000] for at in range(0, len(fields), 16000)]
        for number, part in enumerate(parts):
            last = 4 if number == len(parts) - 1 else 0
            peer.raw(9 if number else 1, last | (0 if number else 1), stream, part)
        return peer.answer(stream)[0]

    assert send([("x-sum", "1")]) == 200
    assert send([("x-long", "1" * 8000)]) == 200
    assert send([("x-long", "1" * 8200)]) == 431
    status = send([(":path", "/other"), ("x-sum", "2")])
    assert status in (200, 400) or str(status).startswith("reset"), status
    assert peer.answer(peer.begin())[0] == 200


def fragment():
    """A fragment is no part of a request: it is gone before anything looks at the path."""
    peer = Peer()
    for path in ["/a#b", "/a?c#b"]:
        status, _ = peer.answer(peer.begin(path=path))
        assert status == 200, status


def leaving():
    """Who leaves says so before it takes no more: what is on its way meanwhile is answered."""
    peer = Peer()
    first = peer.begin(path="/later")
    received, lasts, later = b"", [], None
    while data := peer.socket.recv(65536):
        received += data
        while len(received) >= 9:
            length = int.from_bytes(received[:3], "big")
            if len(received) < 9 + length:
                break
            kind, flags = received[3], received[4]
            stream = int.from_bytes(received[5:9], "big")
            payload, received = received[9 : 9 + length], received[9 + length :]
            if kind == 7:
                lasts.append(int.from_bytes(payload[:4], "big"))
                if later is None:
                    # It was on its way when that came.
                    later = first + 2
                    fields = peer.h2.encoder.encode(peer.head())
                    peer.raw(1, 5, later, fields)
            if kind == 6 and not flags & 1:
                peer.raw(6, 1, 0, payload)
            if kind == 1:
                lasts.append(-stream)
    assert lasts[0] == 2**31 - 1, lasts
    assert -later in lasts and -first in lasts, lasts
    assert later in lasts, lasts


def slow():
    """A response that is not taken ends its stream; the others go on."""
    peer = Peer()
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    peer.flush()
    stuck = peer.begin(path="/large")
    event = peer.until(lambda event: isinstance(event, h2.events.StreamReset))
    assert event is not None and event.stream_id == stuck, event
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65535})
    peer.flush()
    assert peer.answer(peer.begin())[0] == 200


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("as it should")
