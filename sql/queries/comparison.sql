-- name: columns
-- List the columns of a table: type, whether null is refused, whether an insert without the column gives it a value (a
-- trigger may), and how the server generates it.
with recursive domains (attnum, type_id) as (
    select a.attnum, a.atttypid
    from pg_attribute a
    where a.attrelid = to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
    union all
    select domains.attnum, t.typbasetype
    from domains join pg_type t on t.oid = domains.type_id
    where t.typbasetype <> 0
)
select a.attname, format_type(a.atttypid, a.atttypmod),
    a.attnotnull or exists (
        select from domains join pg_type d on d.oid = domains.type_id
        where domains.attnum = a.attnum and d.typnotnull
    ),
    a.atthasdef or a.attidentity <> '' or t.typdefault is not null or exists (
        select from pg_trigger g
        where g.tgrelid = a.attrelid and not g.tgisinternal and g.tgenabled in ('O', 'A')
            and g.tgtype & 1 = 1 and g.tgtype & 2 = 2 and g.tgtype & 4 = 4
    ),
    case when a.attgenerated <> '' then 'computed' when a.attidentity = 'a' then 'identity' else '' end
from pg_attribute a
join pg_type t on t.oid = a.atttypid
where a.attrelid = to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
order by a.attnum;

-- name: checks
-- List the checks of single columns.
select a.attname, pg_get_constraintdef(c.oid)
from pg_constraint c
join pg_attribute a on a.attrelid = c.conrelid and c.conkey = array[a.attnum]
where c.conrelid = to_regclass(%(table)s) and c.contype = 'c'
order by c.conname;

-- name: indexes
-- List the indexes of all rows of a table: whether each is unique (not deferrable), and its columns in their
-- order.
select i.indisunique and i.indimmediate, array_agg(a.attname::text order by k.place)
from pg_index i
cross join unnest(i.indkey) with ordinality as k (number, place)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
where i.indrelid = to_regclass(%(table)s) and i.indisvalid and i.indpred is null and i.indexprs is null
    and k.place <= i.indnkeyatts
group by i.indexrelid, i.indisunique;

-- name: stored_types
-- List the columns of a table with the type, and its modifier, below all domains.
with recursive below (attname, type_id, modifier) as (
    select a.attname, a.atttypid, a.atttypmod
    from pg_attribute a
    where a.attrelid = to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
    union all
    select below.attname, t.typbasetype, t.typtypmod
    from below join pg_type t on t.oid = below.type_id
    where t.typbasetype <> 0
)
select below.attname, format_type(below.type_id, below.modifier)
from below join pg_type t on t.oid = below.type_id
where t.typbasetype = 0;
