"""Resumes a TLS session of 127.0.0.1:8443 at a version, after so many seconds."""

import os
import socket
import ssl
import sys
import time

version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[sys.argv[1]]
context = ssl.create_default_context(cafile="ca.pem")
context.minimum_version = context.maximum_version = version
if os.path.exists("client.pem"):
    context.load_cert_chain("client.pem", "client.key")


def request(session):
    plain = socket.create_connection(("127.0.0.1", 8443), timeout=10)
    with context.wrap_socket(plain, server_hostname="first.test", session=session) as secure:
        secure.sendall(b"GET / HTTP/1.1\r\nHost: first.test\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := secure.recv(4096):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200"), answer
        return secure.session, secure.session_reused


session, _ = request(None)
if len(sys.argv) > 2:
    time.sleep(float(sys.argv[2]))
_, reused = request(session)
print("resumed" if reused else "new")
