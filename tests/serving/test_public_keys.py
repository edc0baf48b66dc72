"""The public keys of an identity provider: which of them count, and what a provider in trouble does to requests."""

import asyncio
import base64
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from etl.errors import UsageError
from etl.serving import public_keys
from etl.serving.jwts import Jwts, Trust
from etl.serving.limiting import Rate
from etl.serving.problems import ProblemError
from etl.serving.public_keys import PublicKeys, keys_in, require_keys
from etl.serving.tokens import Tokens
from tests.support.receivers import NOWHERE

ONE, TWO = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
CLAIMS = {"iss": "https://id.example", "aud": "etl", "exp": time.time() + 86_400, "role": "ops"}
CURVE = ec.generate_private_key(ec.SECP256R1())


def _public(key: Any, kid: Any, **members: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, **members}


def _document(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


class _Provider(ThreadingHTTPServer):
    """Sends a document; slowly, if `pause` is not 0."""

    body = b""
    pause = 0.0

    def handle_error(self, *_values: Any) -> None:
        """Leave a client alone that does not wait."""


class _Answer(BaseHTTPRequestHandler):
    server: _Provider

    def do_GET(self) -> None:
        """Send the document."""
        self.send_response(200)
        self.end_headers()
        for place in range(0, len(self.server.body), 50):
            self.wfile.write(self.server.body[place : place + 50])
            time.sleep(self.server.pause)

    def log_message(self, *_values: Any) -> None:
        """Write nothing."""


@contextmanager
def _provider() -> Iterator[tuple[_Provider, str]]:
    provider = _Provider(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=provider.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield provider, f"http://127.0.0.1:{provider.server_port}/keys"
    finally:
        provider.shutdown()
        thread.join()
        provider.server_close()


def test_keys_for_signatures_count_whatever_is_beside_them() -> None:
    """A document may have keys for encryption, of other kinds and wrong ones: those for signatures count."""
    others = [
        _public(ONE, "encryption", alg="RSA-OAEP", use="enc"),
        _public(ONE, "use", use="enc"),
        _public(ONE, "other", alg="RS512"),
        _public(ONE, ["list"]),
        _public(ec.generate_private_key(ec.SECP384R1()), "larger"),
        {"kty": "EC", "crv": "other", "x": "AA", "y": "AA", "kid": "curve"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "small"},
        {"kty": "RSA", "kid": "nothing"},
        {"kty": "oct", "k": "AAAA", "kid": "secret"},
        "text",
    ]
    found = keys_in(_document(*others, _public(TWO, "two", alg="RS256", use="sig"), _public(CURVE, "curve")))
    assert list(found) == ["two", "curve"]
    for text in (b"{}", b"[]", b"null", b'{"keys": {"a": 1}}', b"[" * 100_000, b"\xff"):
        with pytest.raises(ValueError, match=r"expected a JWKS document|codec|decode"):
            keys_in(text)


def test_a_provider_in_trouble_changes_nothing_for_known_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong, slow or absent document leaves the keys that are known; whoever has one does not wait for others."""
    monkeypatch.setattr(public_keys, "_WAIT_SECONDS", 1.0)
    monkeypatch.setattr(public_keys, "_AGAIN_SECONDS", 0.0)

    async def ask(provider: _Provider, place: str) -> None:
        keys = PublicKeys(place)
        provider.body = _document(_public(ONE, "one"))
        assert (await keys.named("one")).key_id == "one"
        for body in (b"{}", b'{"keys": 1}', b"<html>"):
            provider.body = body
            with pytest.raises(jwt.InvalidTokenError):
                await keys.named("two")
            assert (await keys.named("one")).key_id == "one"
        provider.body, provider.pause = _document(_public(TWO, "two")), 0.4
        asking, begun = asyncio.create_task(keys.named("two")), time.monotonic()
        await asyncio.sleep(0.05)
        assert (await keys.named("one")).key_id == "one"
        assert time.monotonic() - begun < 0.3
        with pytest.raises(jwt.InvalidTokenError):
            await asking
        assert time.monotonic() - begun < 1.3
        provider.pause = 0.0
        await asyncio.sleep(0.7)
        assert (await keys.named("two")).key_id == "two"
        with pytest.raises(jwt.InvalidTokenError):
            await keys.named("one")  # The provider has removed it.

    with _provider() as (provider, place):
        asyncio.run(ask(provider, place))


def test_a_document_that_leads_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An https address that leads to an open connection gives no keys."""
    with _provider() as (provider, place):
        provider.body = _document(_public(ONE, "one"))
        require_keys(place)
        with urllib.request.urlopen(place) as answer:  # noqa: S310 - of this test
            monkeypatch.setattr(urllib.request, "urlopen", lambda *_values, **_named: answer)
            with pytest.raises(UsageError, match="another protocol"):
                require_keys("https://id.example/keys")


@pytest.mark.parametrize(
    "header", ["[" * 5_000, '{"alg": "RS256", "kid": 1}', '{"alg": "RS256", "kid": ["x"]}', "7", "{}"]
)
def test_whatever_a_token_is_it_is_refused(header: str) -> None:
    """A token of any form is 401 and no fault, by public keys and by a secret; one of ES256 counts."""
    begin = base64.urlsafe_b64encode(header.encode()).decode().rstrip("=")
    good = jwt.encode(CLAIMS, CURVE, algorithm="ES256", headers={"kid": "curve"})

    async def ask(gate: Jwts, token: str) -> str:
        return (await gate.identify({"path": "/v1/runs"}, {b"authorization": f"Bearer {token}".encode()})).role

    with _provider() as (provider, place):
        provider.body = _document(_public(CURVE, "curve"))
        for given in ({"secret": None, "keys": place}, {"secret": b"s" * 32, "keys": None}):
            trust = Trust(
                issuer="https://id.example", audience="etl", claim="role", roles={"ops": ("operator", None)}, **given
            )
            with pytest.raises(ProblemError) as refused:
                asyncio.run(ask(Jwts(trust, Rate(0)), f"{begin}.e30.AAAA"))
            assert refused.value.status == 401
            if given["keys"]:
                assert asyncio.run(ask(Jwts(trust, Rate(0)), good)) == "operator"
    assert Tokens(NOWHERE, b"s" * 32).key_of(f"{begin}.e30.AAAA") is None
