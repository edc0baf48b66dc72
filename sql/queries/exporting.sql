-- name: tables
-- List the tables of facts and aggregates, and the view of their freshness. A partition is part of its table.
select pg_namespace.nspname || '.' || pg_class.relname
from pg_class
join pg_namespace on pg_namespace.oid = pg_class.relnamespace
where pg_namespace.nspname in ('logistics', 'analytics')
    and not pg_class.relispartition
    and (pg_class.relkind in ('r', 'p', 'm') or (pg_namespace.nspname, pg_class.relname) = ('analytics', 'freshness'))
    and has_table_privilege(pg_class.oid, 'select')
order by pg_namespace.nspname desc, pg_class.relname;

-- name: described
-- Return whether a table exists, and its comment.
select to_regclass(%(table)s) is not null, coalesce(obj_description(to_regclass(%(table)s), 'pg_class'), '');

-- name: columns
-- List the columns of a table with their types; of a domain the type that it is made of.
with recursive resolved as (
    select attnum, attname, attrelid, atttypid as type, atttypmod as modifier
    from pg_attribute
    where attrelid = to_regclass(%(table)s) and attnum > 0 and not attisdropped
    union all
    select
        attnum,
        attname,
        attrelid,
        pg_type.typbasetype,
        case when pg_type.typtypmod >= 0 then pg_type.typtypmod else modifier end
    from resolved
    join pg_type on pg_type.oid = resolved.type and pg_type.typtype = 'd'
)
select
    attname as name,
    format_type(type, modifier) as type,
    pg_type.typname as kind,
    modifier,
    coalesce(col_description(attrelid, attnum), '') as comment
from resolved
join pg_type on pg_type.oid = resolved.type and pg_type.typtype <> 'd'
order by attnum;

-- name: leading_columns
-- List the column of the partitions of a table, then the first column of each of its indexes, in the order of their age.
select attname
from (
    select 0 as place, partattrs[0] as attnum from pg_partitioned_table where partrelid = to_regclass(%(table)s)
    union all
    select row_number() over (order by indexrelid), indkey[0] from pg_index where indrelid = to_regclass(%(table)s)
) as firsts
join pg_attribute on attrelid = to_regclass(%(table)s) and pg_attribute.attnum = firsts.attnum
order by place;

-- name: pages
-- Return the size of a table and its partitions, in pages of 8 KiB; null for a view, of which no part can be sampled.
select case
    when relkind in ('r', 'm') then pg_relation_size(oid) / 8192
    when relkind = 'p' then (select sum(pg_relation_size(relid)) / 8192 from pg_partition_tree(pg_class.oid) where isleaf)
end::bigint
from pg_class
where oid = to_regclass(%(table)s);

-- name: digits
-- Return the digits of numeric columns before and after the point, and whether a value is no number.
select {columns} from {table} as exported {sample};

-- name: digits_of_column
-- The digits of one column; an infinite value and NaN have none.
coalesce(length(trunc(max(abs({column})) filter (where {column} not in ('NaN', 'Infinity', '-Infinity')))::text), 0),
coalesce(max(scale({column})), 0),
coalesce(bool_or({column} in ('NaN', 'Infinity', '-Infinity')), false)

-- name: sample
-- Read some pages of a table, the same each time.
tablesample system ({percent}) repeatable (0)

-- name: odd
-- Count the values of columns that Arrow does not have.
select {columns} from {table} as exported;

-- name: odd_time
-- An infinite time, or one of the last 30 years of PostgreSQL: more microseconds than 64 bits hold.
count(*) filter (where not isfinite({column}) or {column} >= '294247-01-01')

-- name: odd_day
-- An infinite day.
count(*) filter (where not isfinite({column}))

-- name: odd_time_of_day
-- The end of a day.
count(*) filter (where {column} = '24:00')

-- name: odd_array
-- An array of arrays, or one whose first element has another number than 1.
count(*) filter (where array_ndims({column}) > 1 or array_lower({column}, 1) <> 1)

-- name: copy
-- Send rows as CSV.
copy (select {columns} from {table} as exported where {condition}) to stdout (format csv);

-- name: copy_ordered
-- Send the first rows of an order as CSV.
copy (select {columns} from {table} as exported order by {order} limit {limit}) to stdout (format csv);

-- name: copy_header
-- Send the names of columns as CSV.
copy (select {columns} from {table} as exported where false and {condition}) to stdout (format csv, header true);

-- name: day
-- The day of a row (UTC), by which the rows of its month are known.
{column}::date

-- name: microseconds
-- A finite time as microseconds since 1970; the CSV of a year after 9999 or before 1 is not read.
case when isfinite({column}) and {column} < '294247-01-01' then (extract(epoch from {column}) * 1000000)::bigint end

-- name: days
-- A finite day as days since 1970.
case when isfinite({column}) then {column} - date '1970-01-01' end

-- name: within
-- The rows from one instant (UTC) to before another.
({column} >= {first} and {column} < {until})

-- name: without_month
-- The rows without a month: the time is null or infinite, before the year 1, or later than 64 bits of microseconds reach.
({column} is null or {column} < '0001-01-01' or {column} >= '294247-01-01')

-- name: is_readable
-- Return whether the user may read a table, which may be missing.
select exists (
    select from pg_class
    join pg_namespace on pg_namespace.oid = pg_class.relnamespace
    where (pg_namespace.nspname, pg_class.relname) = (%(schema)s, %(table)s)
        and has_schema_privilege(pg_namespace.oid, 'usage')
        and has_table_privilege(pg_class.oid, 'select')
);

-- name: newest_run
-- Return the finished run that ended last, of some datasets, or of all (null).
select run, coalesce(published_at, finished_at) as ended_at
from etl.runs
where finished_at is not null and undone_at is null
    and (%(datasets)s::text[] is null or dataset = any(%(datasets)s::text[]))
order by ended_at desc
limit 1;

-- name: freshness
-- Return how fresh the aggregates are that were computed.
select aggregate, run, facts_through, pending_buckets, version from analytics.freshness;

-- name: registered
-- List the tables of the export at a place, as consumers of changes: how a changed row of each leads to its months.
select aggregates.aggregate, aggregates.bucket, watches.fact, watches.noted
from etl.aggregates
left join etl.watches on watches.aggregate = aggregates.aggregate
where aggregates.is_export and starts_with(aggregates.aggregate, %(prefix)s);

-- name: register
-- Register a table of an export as a consumer of the changes of its rows: all of it is to be written.
with old as (
    delete from etl.watches where aggregate = %(consumer)s
),
registered as (
    insert into etl.aggregates (aggregate, grain, bucket, datasets, is_export)
    values (%(consumer)s, 'One row per row of the table.', %(bucket)s, '{}', true)
    on conflict (aggregate) do update set bucket = excluded.bucket
    returning aggregate
)
insert into etl.pending (aggregate) select aggregate from registered;

-- name: watch
-- Let the triggers of a table note its changes for an export.
insert into etl.watches (aggregate, fact, noted) values (%(consumer)s, %(fact)s, %(noted)s);

-- name: is_noted
-- Return whether an aggregate has an expression of a table noted.
select exists (
    select from etl.watches
    join etl.aggregates on aggregates.aggregate = watches.aggregate and not aggregates.is_export
    where watches.fact = %(fact)s and watches.noted = %(noted)s
);

-- name: unregister
-- Forget tables that are not in an export any more.
delete from etl.aggregates where is_export and aggregate = any(%(consumers)s);

-- name: is_own_table
-- Return whether triggers can note the changes of a table: it is no view, and no partition.
select relkind in ('r', 'p') and not relispartition from pg_class where oid = to_regclass(%(table)s);

-- name: last_export
-- Return the last export at a place whose changes were taken.
select export from etl.exports where place = %(place)s;

-- name: record_export
-- Record that the changes before an export are in it.
insert into etl.exports (place, export, taken_at)
values (%(place)s, %(export)s, transaction_timestamp())
on conflict (place) do update set export = excluded.export, taken_at = excluded.taken_at;

-- name: forget_export
-- Forget the last export at a place.
delete from etl.exports where place = %(place)s returning export;
