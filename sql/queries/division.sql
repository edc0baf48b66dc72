-- name: lock
-- Let one session divide a table at a time; return false while another one does.
select pg_try_advisory_lock(hashtextextended('etl:division:' || %(fact)s, 0));

-- name: unlock
-- Let another session divide the table.
select pg_advisory_unlock(hashtextextended('etl:division:' || %(fact)s, 0));

-- name: state
-- Return whether a table is listed as one that is divided now, and whether its copy has taken its place.
select shape = '' from etl.divisions where fact = %(fact)s;

-- name: obstacles
-- List the reasons for which a table cannot be divided: objects that a copy would not have.
with source as (
    select
        pg_class.*,
        array(select attnum from pg_attribute where attrelid = pg_class.oid and attname = any (%(columns)s)) as divided_by,
        array_to_string(%(columns)s::text[], ', ') as names
    from pg_class
    where oid = to_regclass(%(table)s)
)
select 'it is not a plain table' from source where relkind <> 'r' or relpersistence <> 'p' or relispartition
union all
select 'it has no columns etl_run, etl_batch and etl_place' from source
where 3 > (
    select count(*) from pg_attribute
    where attrelid = source.oid and attname in ('etl_run', 'etl_batch', 'etl_place') and attnotnull
)
union all
select format('constraint %%s is unique without %%s', conname, names)
from source join pg_constraint on conrelid = source.oid
where not divided_by <@ conkey and (contype = 'u' or contype = 'p' and cardinality(%(key)s::text[]) = 0)
union all
select format('constraint %%s excludes rows', conname)
from source join pg_constraint on conrelid = source.oid
where contype = 'x'
union all
select format('index %%s is unique without %%s', indexrelid::regclass, names)
from source join pg_index on indrelid = source.oid
where indisunique and not divided_by <@ indkey::smallint[]
    and not exists (select from pg_constraint where conindid = indexrelid and conrelid = source.oid)
union all
select format('trigger %%s has transition tables for each row', tgname)
from source join pg_trigger on tgrelid = source.oid
where tgtype & 1 = 1 and (tgoldtable is not null or tgnewtable is not null)
union all
select 'other tables inherit from it, or it from them' from source
where exists (select from pg_inherits where source.oid in (inhrelid, inhparent))
union all
select format('%%s depends on it', pg_describe_object(classid, objid, objsubid))
from source
join pg_depend on (refclassid, refobjid) in (
    ('pg_class'::regclass, source.oid), ('pg_type'::regclass, source.reltype),
    ('pg_type'::regclass, (select typarray from pg_type where pg_type.oid = source.reltype))
)
where deptype in ('n', 'a', 'i') and not case classid
    when 'pg_class'::regclass then exists (
        select from pg_class as own where own.oid = objid and (
            own.relkind = 't' or exists (select from pg_index where indexrelid = own.oid and indrelid = source.oid)
        )
    )
    when 'pg_constraint'::regclass then exists (
        select from pg_constraint where oid = objid and conrelid = source.oid
    )
    when 'pg_trigger'::regclass then exists (
        select from pg_trigger where oid = objid and (tgrelid = source.oid or tgisinternal)
    )
    when 'pg_attrdef'::regclass then exists (select from pg_attrdef where oid = objid and adrelid = source.oid)
    when 'pg_policy'::regclass then exists (select from pg_policy where oid = objid and polrelid = source.oid)
    when 'pg_statistic_ext'::regclass then true
    when 'pg_type'::regclass then objid in (
        source.reltype, (select typarray from pg_type where pg_type.oid = source.reltype)
    )
    when 'pg_rewrite'::regclass then exists (
        select from pg_rewrite join pg_class as viewing on viewing.oid = ev_class
        where pg_rewrite.oid = objid and viewing.relkind = 'v'
    )
    else false
end
order by 1;

-- name: make_schema
-- Make the schema in which the copy is filled.
create schema if not exists etl_partitioning;

-- name: drop_schema
-- Drop the schema in which copies were filled.
drop schema etl_partitioning;

-- name: make_copy
-- Make the partitioned copy of a table, without partitions.
create table {copy} (
    like {table} including defaults including constraints including generated including storage including compression
    including statistics including comments
) {partition_by};

-- name: watch_partitions
-- Let the partitions of the copy note the changes of statements that name them, as the table does.
select etl.watch_partition(to_regclass(%(table)s), inhrelid::regclass)
from pg_inherits
where inhparent = to_regclass(%(copy)s);

-- name: copy_indexes
-- Give the copy the keys, foreign keys and indexes of the table.
select etl.copy_indexes(to_regclass(%(table)s), to_regclass(%(copy)s), %(columns)s, %(key)s);

-- name: index_copy
-- Find the rows of a lineage in the copy.
create index {index} on {copy} (etl_run, etl_batch, etl_place);

-- name: try_rights
-- Give the copy rights and triggers, to see whether this is possible.
select
    etl.copy_rights(to_regclass(%(table)s), to_regclass(%(copy)s)),
    etl.copy_triggers(to_regclass(%(table)s), to_regclass(%(copy)s));

-- name: enter
-- Note that a table is divided now.
insert into etl.divisions (fact, shape) values (%(fact)s, etl.shape_of(to_regclass(%(table)s)));

-- name: has_triggers
-- Return whether the changes of a table are noted for its copy.
select count(*) = 4
from pg_trigger
where tgrelid = to_regclass(%(table)s) and tgname like '~etl\_division\_%%' and tgenabled = 'A';

-- name: make_triggers
-- Note the changes of a table for its copy, also those that a replication brings.
create or replace trigger "~etl_division_insert" after insert on {table}
referencing new table as new_rows for each statement execute function etl.note_division_changes({fact});
create or replace trigger "~etl_division_update" after update on {table}
referencing old table as old_rows new table as new_rows for each statement execute function etl.note_division_changes({fact});
create or replace trigger "~etl_division_delete" after delete on {table}
referencing old table as old_rows for each statement execute function etl.note_division_changes({fact});
create or replace trigger "~etl_division_truncate" after truncate on {table}
for each statement execute function etl.note_division_changes({fact});
alter table {table} enable always trigger "~etl_division_insert", enable always trigger "~etl_division_update",
    enable always trigger "~etl_division_delete", enable always trigger "~etl_division_truncate";

-- name: drop_triggers
-- Note the changes of a table for no copy.
drop trigger if exists "~etl_division_insert" on {table};
drop trigger if exists "~etl_division_update" on {table};
drop trigger if exists "~etl_division_delete" on {table};
drop trigger if exists "~etl_division_truncate" on {table};

-- name: index_state
-- Return whether the index on the lineage of a table is complete; no row without an index.
select indisvalid from pg_index where indexrelid = to_regclass(%(index)s);

-- name: make_index
-- Make the index on the lineage of a table; writers continue.
create index concurrently {name} on {table} (etl_run, etl_batch, etl_place);

-- name: drop_index
-- Drop the index on the lineage of a table; writers continue.
drop index concurrently if exists {index};

-- name: one_snapshot
-- Let all statements of the transaction see the same rows.
set transaction isolation level repeatable read;

-- name: copy_rows
-- Copy the next rows, and changed ones again.
select copied, changed from etl.copy_rows(%(fact)s, to_regclass(%(table)s), to_regclass(%(copy)s), %(most)s);

-- name: next_days
-- List the days of the next rows, and of those that changed.
select distinct date_trunc('day', {moment})
from {table}
where {column} is not null and (
    (etl_run, etl_batch, etl_place) in (
        select etl_run, etl_batch, etl_place from etl.division_changes where fact = %(fact)s
    )
    or (etl_run, etl_batch, etl_place) > (
        select etl_run, etl_batch, etl_place from etl.divisions where fact = %(fact)s
    )
);

-- name: add_partitions
-- Make the partitions of the copy for these days.
select etl.add_partitions(to_regclass(%(copy)s), %(fact)s, %(days)s::timestamp[]);

-- name: be_quick
-- Let the next statement of the transaction take no longer than this.
select set_config('statement_timeout', %(milliseconds)s || 'ms', true);

-- name: hold_all
-- Let nobody read or write a table until the end of the transaction.
lock table {table} in access exclusive mode;

-- name: has_many_changes
-- Return whether more changes are noted and not copied than can be copied in a moment.
select count(*) > %(most)s from etl.division_changes where fact = %(fact)s;

-- name: take_place
-- Let the copy take the place of its table.
select etl.take_place(%(fact)s, to_regclass(%(table)s), to_regclass(%(copy)s));

-- name: forget
-- Forget that a table was divided.
with changes as (
    delete from etl.division_changes where fact = %(fact)s
)
delete from etl.divisions where fact = %(fact)s;

-- name: forget_partitions
-- Forget the partitions of a copy that is given up.
delete from etl.partitions where fact = %(fact)s;

-- name: forget_fact
-- List a table as a plain one.
delete from etl.partitioned_facts where fact = %(fact)s;
