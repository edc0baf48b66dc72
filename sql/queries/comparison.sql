-- name: columns
-- List the columns of a table: type, whether null is refused, and whether an insert without it gives it a value.
select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    a.atthasdef or a.attidentity <> '' or a.attgenerated <> ''
from pg_attribute a
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
-- List the indexes of all rows of a table: whether each is unique, and its columns in their order.
select i.indisunique, array_agg(a.attname::text order by k.place)
from pg_index i
cross join unnest(i.indkey) with ordinality as k (number, place)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
where i.indrelid = to_regclass(%(table)s) and i.indisvalid and i.indpred is null and i.indexprs is null
    and k.place <= i.indnkeyatts
group by i.indexrelid, i.indisunique;
