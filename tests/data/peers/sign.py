"""Signs requests as http-message-signatures does and sends them to 127.0.0.1:8080; the arguments
are an algorithm, the file of its key and the name of the key. Ends with 0 if right requests, and
only those, were let in."""

import datetime
import http.client
import sys

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms

ALGORITHM, KEY_FILE, KEY_ID = sys.argv[1:]


class Key(HTTPSignatureKeyResolver):
    def resolve_private_key(self, key_id):
        with open(KEY_FILE, "rb") as file:
            text = file.read()
        return load_pem_private_key(text, None) if b"PRIVATE KEY" in text else text.strip()


class Request:
    """What the signer wants of a request: that of the requests library looks like this."""

    def __init__(self, method, target, body=None):
        self.method = method
        self.url = "http://api.test:8080" + target
        self.target = target
        self.headers = {"Host": "api.test:8080", "X-Tenant": "a, b"}
        self.body = body
        if body is not None:
            self.headers["Content-Length"] = str(len(body))


def sign(request, components, **more):
    signer = HTTPMessageSigner(
        signature_algorithm=getattr(algorithms, ALGORITHM), key_resolver=Key()
    )
    body = {} if request.body is None else {"body": request.body}
    signer.sign(
        request,
        key_id=KEY_ID,
        covered_component_ids=components,
        created=datetime.datetime.now(datetime.timezone.utc),
        **body,
        **more,
    )


def send(request):
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=10)
    connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.items():
        connection.putheader(name, value)
    connection.endheaders(request.body)
    status = connection.getresponse().status
    connection.close()
    return status


def expect(what, request, status):
    found = send(request)
    if found != status:
        sys.exit(f"{what}: {found} instead of {status}: {request.headers}")


WHOLE = ("@method", "@authority", "@path", "@query")

get = Request("GET", "/a/b%20c?x=1&name=a%20b")
sign(get, WHOLE + ("x-tenant", '"@query-param";name="name"'))
expect("a signed request", get, 200)
expect("the same again", get, 401)

uri = Request("GET", "/?empty=")
sign(uri, ("@method", "@target-uri", "@scheme"), nonce="n-1", tag="app")
expect("by its URI", uri, 200)

post = Request("POST", "/", b'{"hello": "world"}')
sign(post, ("@method", "@target-uri", "content-length"), nonce="n-2")
expect("with a body", post, 200)

large = Request("POST", "/large", bytes(range(256)) * 8000)
sign(large, ("@method", "@authority", "@path"), nonce="n-3")
expect("with a body that streams", large, 200)

for change in ("method", "target", "body"):
    changed = Request("POST", "/", b'{"hello": "world"}')
    sign(changed, ("@method", "@target-uri"), nonce=f"n-{change}")
    setattr(changed, change, {"method": "PUT", "target": "/?", "body": b'{"hello": "World"}'}[change])
    expect(f"another {change}", changed, 401)

little = Request("GET", "/?x=1")
sign(little, ("@method", "@authority", "@path"), nonce="n-4")
expect("too little is covered", little, 401)
print("all as it should be")
