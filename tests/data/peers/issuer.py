"""Prints keys and tokens as PyJWT makes them: {"keys": [...], "good": {...}, "bad": {...}}."""

import base64
import json
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def number(value, length=None):
    size = length or (value.bit_length() + 7) // 8
    return base64.urlsafe_b64encode(value.to_bytes(size, "big")).rstrip(b"=").decode()


def jwk(kid, key):
    public = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "kid": kid, "n": number(numbers.n), "e": number(numbers.e)}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        numbers, size = public.public_numbers(), (public.key_size + 7) // 8
        curve = {32: "P-256", 48: "P-384", 66: "P-521"}[size]
        x, y = number(numbers.x, size), number(numbers.y, size)
        return {"kty": "EC", "kid": kid, "crv": curve, "x": x, "y": y}
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {"kty": "OKP", "kid": kid, "crv": "Ed25519", "x": x}


keys = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "rsa3": rsa.generate_private_key(65537, 3072),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}
now = int(time.time())
claims = {
    "iss": "https://id.test",
    "aud": ["api", "other"],
    "sub": "alice",
    "iat": now,
    "nbf": now,
    "exp": now + 600,
}


def token(kid, algorithm, **changes):
    return jwt.encode({**claims, **changes}, keys[kid], algorithm, headers={"kid": kid})


good = {
    f"{algorithm} {kid}": token(kid, algorithm)
    for kid, algorithm in [
        ("rsa", "RS256"),
        ("rsa", "RS512"),
        ("rsa3", "PS384"),
        ("p256", "ES256"),
        ("p384", "ES384"),
        ("p521", "ES512"),
        ("ed", "EdDSA"),
    ]
}
bad = {
    "expired": token("p256", "ES256", exp=now - 100),
    "for somebody else": token("p256", "ES256", aud="other"),
    "another issuer": token("p256", "ES256", iss="https://else.test"),
    "an algorithm that is not allowed": token("rsa", "PS256"),
    "another's key": jwt.encode(claims, keys["rsa3"], "RS256", headers={"kid": "rsa"}),
    "no signature": jwt.encode(claims, None, "none"),
}
shown = [jwk(kid, key) for kid, key in keys.items()]
print(json.dumps({"keys": shown, "good": good, "bad": bad}))
