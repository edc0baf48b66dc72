"""Tokens: those for a key, and those of an identity provider, of which only some count."""

import base64
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.services import RunningService, serving
from tests.support.site import Site
from tests.support.waiting import until

ROWS = "/v1/aggregates/carrier_scorecard/rows"
SECRET = "a secret of the provider that is long enough for each kind of signature"  # noqa: S105 - of a test


def _as(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_key_gives_a_token_and_the_next_ones(guarded: RunningService, demo: Site) -> None:
    """A token counts as its key does; a refresh token gives the next two once, and all end with the key."""
    keyed = guarded.client
    [key] = demo.run("key", "create", "tokens", "--role", "operator", "--json").lines
    first = keyed.post("/v1/token", headers=_as(key["key"])).json()
    assert (first["token_type"], first["expires_in"]) == ("Bearer", 900)
    assert keyed.get("/v1/runs", headers=_as(first["access_token"])).status_code == 200
    second = keyed.post("/v1/token", json={"refresh_token": first["refresh_token"]}).json()
    assert keyed.get(ROWS, headers=_as(second["access_token"])).status_code == 200
    assert json.dumps(demo.ask("select digest::text from etl.api_tokens")).count("\\\\x") >= 2
    for wrong in ({"refresh_token": "etlr_x"}, {"refresh_token": first["refresh_token"]}):
        assert keyed.post("/v1/token", json=wrong).status_code == 401
    # The used token came again: somebody else has it, and the newer one is ended, too.
    assert keyed.post("/v1/token", json={"refresh_token": second["refresh_token"]}).status_code == 401
    third = keyed.post("/v1/token", headers=_as(key["key"])).json()
    demo.run("key", "revoke", key["id"])
    until(lambda: keyed.get(ROWS, headers=_as(second["access_token"])).status_code == 401, "the end of the token", 2)
    assert keyed.post("/v1/token", json={"refresh_token": third["refresh_token"]}).status_code == 401
    assert keyed.post("/v1/token").status_code == 401
    assert keyed.post("/v1/token", json={"refresh": 1}).status_code == 422
    assert keyed.get(ROWS, headers=_as(first["refresh_token"])).status_code == 401


def _claims(**changed: Any) -> dict[str, Any]:
    claims = {"iss": "https://id.example", "aud": "etl", "sub": "ann", "exp": time.time() + 600, "role": "planner"}
    return {name: value for name, value in (claims | changed).items() if value is not None}


def _options(*more: str) -> list[str]:
    names = ["--auth", "jwt", "--jwt-issuer", "https://id.example", "--jwt-audience", "etl"]
    return [*names, "--jwt-roles", "planner=analyst:etl_analyst,ops=operator", *more]


def _unsigned(claims: dict[str, Any], **header: str) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"} | header, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), ""])


def _signed_by(secret: bytes, claims: dict[str, Any], kid: str) -> str:
    """Return a token that a public key signs as if it were a secret, which libraries refuse to make."""
    text = _unsigned(claims, alg="HS256", kid=kid)
    digest = hmac.digest(secret, text[:-1].encode(), "sha256")
    return text + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def test_only_tokens_that_count_are_taken(demo: Site) -> None:
    """Issuer, audience, times, signature and role of a token decide; what each role may is as for keys."""
    path = demo.folder / "secret"
    path.write_text(SECRET)
    ok, unknown, no = 200, 401, 403
    cases: list[tuple[str, int, int]] = [
        (jwt.encode(_claims(), SECRET), ok, no),
        (jwt.encode(_claims(role="ops"), SECRET), ok, ok),
        (jwt.encode(_claims(role=["x", "planner", "ops"]), SECRET), ok, ok),
        (jwt.encode(_claims(aud=["other", "etl"]), SECRET), ok, no),
        (jwt.encode(_claims(role="admin"), SECRET), unknown, unknown),
        (jwt.encode(_claims(role=None), SECRET), unknown, unknown),
        (jwt.encode(_claims(role={"planner": 1}), SECRET), unknown, unknown),
        (jwt.encode(_claims(exp=time.time() - 60), SECRET), unknown, unknown),
        (jwt.encode(_claims(exp=None), SECRET), unknown, unknown),
        (jwt.encode(_claims(nbf=time.time() + 600), SECRET), unknown, unknown),
        (jwt.encode(_claims(iss="https://other.example"), SECRET), unknown, unknown),
        (jwt.encode(_claims(aud="other"), SECRET), unknown, unknown),
        (jwt.encode(_claims(aud=None), SECRET), unknown, unknown),
        (jwt.encode(_claims(), f"{SECRET}!"), unknown, unknown),
        (jwt.encode(_claims(), SECRET, algorithm="HS512"), unknown, unknown),
        (_unsigned(_claims()), unknown, unknown),
        ("a.b.c", unknown, unknown),
        ("x" * 9_000, unknown, unknown),
    ]
    with serving(demo, *_options("--jwt-secret", str(path))) as service:
        for number, (token, rows, runs) in enumerate(cases):
            got = tuple(service.client.get(path, headers=_as(token)).status_code for path in (ROWS, "/v1/runs"))
            assert got == (rows, runs), number
        assert service.client.get(ROWS).status_code == 401
        assert not [token for token, _, _ in cases if token in service.running.stderr()]


@pytest.mark.slow
def test_public_keys_of_the_provider_verify_tokens(demo: Site) -> None:
    """RS256 counts by the key that the token names; the public key as a secret does not count."""
    path = demo.folder / "keys.json"
    one, two = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
    _write(path, {"one": one})
    with serving(demo, *_options("--jwt-keys", str(path))) as service:

        def asked(token: str) -> int:
            return service.client.get(ROWS, headers=_as(token)).status_code

        assert asked(jwt.encode(_claims(), one, algorithm="RS256", headers={"kid": "one"})) == 200
        assert asked(jwt.encode(_claims(), one, algorithm="RS256")) == 200
        assert asked(jwt.encode(_claims(), two, algorithm="RS256", headers={"kid": "one"})) == 401
        assert asked(jwt.encode(_claims(), two, algorithm="RS256", headers={"kid": "two"})) == 401
        public = one.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        assert asked(_signed_by(public, _claims(), kid="one")) == 401


def _write(path: Path, keys: dict[str, rsa.RSAPrivateKey]) -> None:
    documents = [
        json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": kid} for kid, key in keys.items()
    ]
    path.write_text(json.dumps({"keys": documents}))


def test_a_token_reads_by_the_rights_of_its_role(site: Site) -> None:
    """A role in a token reads as its role of the database: its grants and policies decide, also after another role."""
    path = site.folder / "secret"
    path.write_text(SECRET)
    site.ask(
        "create role planner_north; create role planner_south; grant etl_analyst to planner_north, planner_south;"
        " alter table analytics.vehicle_days enable row level security;"
        " create policy north on analytics.vehicle_days for select to planner_north using (vehicle_id like 'N%');"
        " create policy south on analytics.vehicle_days for select to planner_south using (vehicle_id like 'S%')"
    )
    for vehicle in ("N1", "S1"):
        site.ask(
            "insert into logistics.vehicle_logs (log_id, trip_date, vehicle_id, etl_run, etl_batch, etl_place)"
            " values (%s, '2026-01-01', %s, 1, 0, 1)",
            [vehicle, vehicle],
        )
    site.run("precalculate", "vehicle_days")
    roles = "north=analyst:planner_north,south=analyst:planner_south,none=analyst:nobody_there"
    names = ["--auth", "jwt", "--jwt-issuer", "i", "--jwt-audience", "a", "--jwt-secret", str(path), "--jwt-roles"]
    try:
        ended = site.run("serve", *names, roles)
        assert (ended.returncode, "may not act as nobody_there" in ended.error) == (2, True)
        with serving(site, *names, roles.rpartition(",")[0], "--connections", "1") as service:
            for role, vehicle in (("north", "N1"), ("south", "S1"), ("north", "N1")):
                token = jwt.encode(_claims(iss="i", aud="a", role=role), SECRET)
                got = service.client.get("/v1/aggregates/vehicle_days/rows", headers=_as(token)).json()
                assert [row["vehicle_id"] for row in got["rows"]] == [vehicle]
    finally:
        site.ask("drop owned by planner_north, planner_south; drop role planner_north; drop role planner_south")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--jwt-roles", "x=king"], "expected CLAIM=ROLE"),
        (["--jwt-roles", "x=analyst"], "--jwt-issuer"),
        ([], "needs --jwt-roles"),
        (["--jwt-roles", "x=analyst", "--jwt-issuer", "i", "--jwt-audience", "a"], "one of --jwt-secret"),
        (
            [
                "--jwt-roles",
                "x=analyst",
                "--jwt-issuer",
                "i",
                "--jwt-audience",
                "a",
                "--jwt-keys",
                "http://id.example/x",
            ],
            "https",
        ),
        (
            ["--jwt-roles", "x=analyst", "--jwt-issuer", "i", "--jwt-audience", "a", "--jwt-secret", "short"],
            "at least 32 bytes",
        ),
    ],
)
def test_options_of_tokens_that_trust_too_much_are_refused(demo: Site, options: list[str], reason: str) -> None:
    """Without issuer, audience, allow-list or a sound key the service does not start."""
    (demo.folder / "short").write_text("short")
    if "--jwt-issuer" not in options and "--jwt-roles" in options:
        options = [*options, "--jwt-secret", "short"]
    ended = demo.run("serve", "--auth", "jwt", *options)
    assert (ended.returncode, reason in ended.error) == (2, True), ended.error
