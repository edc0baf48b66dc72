-- name: hush_notices
-- Say nothing of a temporary table that is there already.
set local client_min_messages = warning;

-- name: columns
-- Tell the columns of a table: type, whether null is refused, whether one that is not named gets a value.
select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    a.atthasdef or a.attidentity <> '' or a.attgenerated <> ''
from pg_attribute a
where a.attrelid = to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
order by a.attnum;

-- name: checks
-- Tell the checks of single columns.
select a.attname, pg_get_constraintdef(c.oid)
from pg_constraint c
join pg_attribute a on a.attrelid = c.conrelid and c.conkey = array[a.attnum]
where c.conrelid = to_regclass(%(table)s) and c.contype = 'c'
order by c.conname;

-- name: indexes
-- Tell the columns of each index of a whole table, in their order, and whether it holds each combination once.
select i.indisunique, array_agg(a.attname::text order by k.place)
from pg_index i
cross join unnest(i.indkey) with ordinality as k (number, place)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
where i.indrelid = to_regclass(%(table)s) and i.indisvalid and i.indpred is null and i.indexprs is null
    and k.place <= i.indnkeyatts
group by i.indexrelid, i.indisunique;
