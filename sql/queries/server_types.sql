-- name: null_of_type
-- Let the server read the name of a type. An array, because a domain may refuse null itself.
select null::{type}[];

-- name: ordered
-- Let the server look for the order of the values of a type.
select values.one[1] from (select null::{type}[] as one) as values order by values.one[1];

-- name: value_of_type
-- Let the server read a text as a value of a type.
select {value}::text::{type};

-- name: names
-- List the names of the types that a statement may use without a schema.
select typname from pg_type
where typelem = 0 and typtype in ('b', 'd', 'e', 'r', 'm') and pg_type_is_visible(oid)
order by typname;

-- name: extension
-- Say in which schema an extension is, null where it could be made; no row where the server does not have it.
select (
    select nspname
    from pg_extension
    join pg_namespace on pg_namespace.oid = extnamespace
    where extname = %(name)s
)
from pg_available_extensions
where name = %(name)s;
