"""Waits until 127.0.0.1:8443 has another certificate; a connection from before goes on."""

import socket
import ssl
import time

context = ssl.create_default_context(cafile="ca.pem")


def connect():
    plain = socket.create_connection(("127.0.0.1", 8443), timeout=10)
    return context.wrap_socket(plain, server_hostname="first.test")


def request(secure):
    secure.sendall(b"GET / HTTP/1.1\r\nHost: first.test\r\n\r\n")
    answer = b""
    while not answer.endswith(b"origin"):
        part = secure.recv(4096)
        assert part, answer
        answer += part
    assert answer.startswith(b"HTTP/1.1 200"), answer


before = connect()
request(before)
begun = time.monotonic()
while True:
    with connect() as now:
        request(now)
        if now.getpeercert(True) != before.getpeercert(True):
            break
    assert time.monotonic() - begun < 15, "the certificate stays the same"
    time.sleep(0.05)
request(before)
print("followed")
