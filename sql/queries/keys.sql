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

-- name: key_of_id
-- Return a key that is valid now by its name, with the seconds for which it still is; null: it does not expire.
select id, role, extract(epoch from expires_at - now())::double precision as seconds
from etl.api_keys
where id = %(id)s and revoked_at is null and (expires_at is null or expires_at > now());

-- name: enter_token
-- Enter a refresh token of a key that is valid, and remove those that have expired; return the role of the key.
with ended as (
    delete from etl.api_tokens where expires_at < now() - interval '1 day'
),
entered as (
    insert into etl.api_tokens (digest, key_id, expires_at)
    select %(digest)s, id, now() + make_interval(secs => %(seconds)s)
    from etl.api_keys
    where id = %(id)s and revoked_at is null and (expires_at is null or expires_at > now())
    returning key_id
)
select role from etl.api_keys join entered on entered.key_id = api_keys.id;

-- name: use_token
-- Use a refresh token, which is possible once; return its key.
update etl.api_tokens set used_at = now()
where digest = %(digest)s and used_at is null and expires_at > now()
returning key_id;

-- name: end_tokens
-- Remove all refresh tokens of the key whose used token came again: somebody else has it, too. Return the key.
with reused as (
    select key_id from etl.api_tokens where digest = %(digest)s and used_at is not null
)
delete from etl.api_tokens using reused where api_tokens.key_id = reused.key_id
returning api_tokens.key_id;
