"""Serves HTTP/2 on 127.0.0.1:3999 without TLS. Of each path it refuses as many streams as the path
says before it answers (`/2`: two); the answer says how many streams came in all."""

import socket
import threading

import h2.config
import h2.connection
import h2.errors
import h2.events

seen = {}


def serve(client):
    config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    client.sendall(connection.data_to_send())
    while data := client.recv(65536):
        for event in connection.receive_data(data):
            if not isinstance(event, h2.events.RequestReceived):
                continue
            head = dict(event.headers)
            path = head[":path"]
            seen[path] = seen.get(path, 0) + 1
            if seen[path] <= int(path.strip("/").split("/")[0]):
                connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            else:
                connection.send_headers(event.stream_id, [(":status", "200")])
                body = f"{head[':method']} {seen[path]}".encode()
                connection.send_data(event.stream_id, body, end_stream=True)
        client.sendall(connection.data_to_send())


listener = socket.create_server(("127.0.0.1", 3999))
print("listening", flush=True)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=[accepted], daemon=True).start()
