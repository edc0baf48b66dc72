-- name: is_schema_missing
-- Return whether the schema of the tables of unfinished runs is missing.
select to_regnamespace('etl_staging') is null;

-- name: make_temporary
-- Make a table that the rows of a batch go through, or that checks them, once per connection; a commit empties it.
create temporary table if not exists {new} (
    like {table} including constraints including generated
) on commit delete rows;

-- name: make_places
-- Make the table of the places of some records of a batch, once per connection.
create temporary table if not exists {places} (
    etl_batch bigint not null,
    etl_place integer not null
) on commit delete rows;

-- name: make_staging
-- Make the logged table that gathers the rows of an atomic run. It has no key: without a replica identity a publication
-- would refuse to delete its rows.
create table if not exists {new} (
    like {table} including constraints including generated
);
alter table {new} replica identity full;

-- name: add_digest
-- Add the digests of records to a table that lacks them.
alter table {new} add column if not exists etl_digest bigint;

-- name: columns_not_sent
-- List the columns of a new table that no record fills and that are not yet as they should be: whether a generated
-- column, or a check of several columns, reads the column, and its default in the fact.
select a.attname, used.is_read, pg_get_expr(e.adbin, e.adrelid)
from pg_attribute a
left join pg_attribute f on f.attrelid = %(table)s::regclass and f.attname = a.attname and f.attgenerated = ''
left join pg_attrdef e on e.adrelid = f.attrelid and e.adnum = f.attnum
cross join lateral (
    select exists (
        select from pg_constraint c
        where c.conrelid = a.attrelid and c.contype = 'c' and a.attnum = any(c.conkey) and cardinality(c.conkey) > 1
    ) or exists (
        select from pg_attribute g
        join pg_attrdef expression on expression.adrelid = g.attrelid and expression.adnum = g.attnum
        join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = expression.oid
        where g.attrelid = a.attrelid and g.attgenerated <> ''
            and d.refclassid = 'pg_class'::regclass and d.refobjid = a.attrelid and d.refobjsubid = a.attnum
    )
) as used (is_read)
where a.attrelid = to_regclass(%(new)s) and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    and a.attname <> all(%(sent)s::text[])
    and (not used.is_read or a.attnotnull or (e.oid is not null and not a.atthasdef));

-- name: drop_column
-- Drop a column that nothing reads, with its own checks.
alter table {new} drop column {column};

-- name: take_null
-- Let a column be empty.
alter table {new} alter column {column} drop not null;

-- name: set_default
-- Give a column the default that it has in the fact.
alter table {new} alter column {column} set default {default};

-- name: partitions
-- Return the condition that a partition of a table holds a row; null for a table that is not partitioned.
select case
    when c.relkind = 'p' then coalesce(
        (
            select string_agg(coalesce('(' || pg_get_partition_constraintdef(p.relid) || ')', 'true'), ' or ')
            from pg_partition_tree(c.oid) p
            where p.isleaf
        ),
        'false'
    )
end
from pg_class c
where c.oid = to_regclass(%(table)s);

-- name: drop_partition_check
-- Drop the check that a partition holds a row: the partitions may be others now.
alter table {new} drop constraint if exists {name};

-- name: add_partition_check
-- Check that a partition holds each row that comes from now on.
alter table {new} add constraint {name} check ({condition}) not valid;
