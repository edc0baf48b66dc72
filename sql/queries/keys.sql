-- name: create_key
-- Enter a key by its digest.
insert into etl.api_keys (id, digest, label, role, expires_at)
values (%(id)s, %(digest)s, %(label)s, %(role)s, now() + %(age)s::interval)
returning id, label, role, created_at, created_by, expires_at, revoked_at;

-- name: list_keys
-- List the keys, the newest first.
select id, label, role, created_at, created_by, expires_at, revoked_at from etl.api_keys order by created_at desc, id;

-- name: revoke_key
-- Revoke a key and the refresh tokens that were issued for it; return its label. A revoked key stays in the list.
with revoked as (
    update etl.api_keys set revoked_at = coalesce(revoked_at, now()) where id = %(id)s returning id, label
),
ended as (
    delete from etl.api_tokens using revoked where api_tokens.key_id = revoked.id
)
select label from revoked;

-- name: find_key
-- Return a key that is valid now by its digest, with the seconds for which it still is; null: it does not expire.
select id, role, extract(epoch from expires_at - now())::double precision as seconds
from etl.api_keys
where digest = %(digest)s and revoked_at is null and (expires_at is null or expires_at > now());

-- name: has_role
-- Return whether the user may act as a role.
select exists (
    select from pg_roles where rolname = %(role)s and pg_has_role(oid, 'set')
);
