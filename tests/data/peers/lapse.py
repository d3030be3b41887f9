"""Keeps a TLS connection to 127.0.0.1:8443 at a version and over a protocol until its certificate
ends at a Unix time; then goes on, resumes the session, and begins another."""

import socket
import ssl
import sys
import time

import h2.connection
import h2.events

version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[sys.argv[1]]
protocol, ends = sys.argv[2], float(sys.argv[3])
context = ssl.create_default_context(cafile="ca.pem")
context.minimum_version = context.maximum_version = version
context.load_cert_chain("client.pem", "client.key")
context.set_alpn_protocols([protocol])


class Kept:
    def __init__(self, session=None):
        plain = socket.create_connection(("127.0.0.1", 8443), timeout=10)
        self.tls = context.wrap_socket(plain, server_hostname="api.test", session=session)
        assert self.tls.selected_alpn_protocol() == protocol
        if protocol == "h2":
            self.h2 = h2.connection.H2Connection()
            self.h2.initiate_connection()

    def status(self):
        if protocol == "h2":
            return self.status_of_stream()
        self.tls.sendall(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = self.tls.recv(4096)
            assert part, answer
            answer += part
        head, body = answer.split(b"\r\n\r\n", 1)
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields[b"content-length"]):
            body += self.tls.recv(4096)
        return int(head.split(b" ")[1])

    def status_of_stream(self):
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "api.test")]
        self.h2.send_headers(stream, head, end_stream=True)
        status = None
        while True:
            self.tls.sendall(self.h2.data_to_send())
            data = self.tls.recv(65536)
            assert data, "the connection ended"
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    status = int(dict(event.headers)[b":status"])
                if isinstance(event, h2.events.StreamEnded):
                    return status


kept = Kept()
assert kept.status() == 200
assert kept.status() == 200
session = kept.tls.session
assert Kept(session).status() == 200
# Its last second still counts.
time.sleep(max(0, ends + 1.2 - time.time()))
for _ in range(3):
    assert kept.status() == 401, "on the connection"
try:
    resumed = Kept(session)
    assert resumed.status() == 401, "in the session"
    print("resumed" if resumed.tls.session_reused else "new")
except (ssl.SSLError, ConnectionError):
    print("refused")
try:
    print(Kept().status())
except (ssl.SSLError, ConnectionError) as error:
    print("as it should")
