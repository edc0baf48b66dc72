-- name: kind
-- Return the kind of a table, the columns by which it is partitioned, and whether by their hash; no row for a missing table.
select
    relkind::text,
    array(
        select attname::text
        from unnest(partattrs::smallint[]) with ordinality as part (number, place)
        join pg_attribute on attrelid = pg_class.oid and attnum = part.number
        order by place
    ),
    partstrat = 'h'
from pg_class
left join pg_partitioned_table on partrelid = pg_class.oid
where pg_class.oid = to_regclass(%(table)s);

-- name: parts_by_hash
-- List the moduli and the remainders of the partitions of a table that is divided by a hash, one of each.
select
    substring(pg_get_expr(relpartbound, pg_class.oid) from 'modulus ([0-9]+)')::integer,
    substring(pg_get_expr(relpartbound, pg_class.oid) from 'remainder ([0-9]+)')::integer
from pg_inherits
join pg_class on pg_class.oid = inhrelid
where inhparent = to_regclass(%(table)s);

-- name: list_fact
-- List a table as one that is partitioned.
insert into etl.partitioned_facts (fact, column_name, every) values (%(fact)s, %(column)s, %(every)s)
on conflict (fact) do update set column_name = excluded.column_name, every = excluded.every
where (partitioned_facts.column_name, partitioned_facts.every) is distinct from (excluded.column_name, excluded.every);

-- name: may_notice_at_once
-- Return whether the user may make event triggers, and the database has not got them.
select rolsuper and not exists (select from pg_event_trigger where evtname = 'etl_partition_dropped')
from pg_roles
where rolname = current_user;

-- name: notice_at_once
-- Notice at once when a person drops or detaches a partition.
create event trigger etl_partition_dropped on sql_drop when tag in ('DROP TABLE')
execute function etl.note_lost_at_once();
create event trigger etl_partition_detached on ddl_command_end when tag in ('ALTER TABLE')
execute function etl.note_lost_at_once();

-- name: make_ahead
-- Make the partitions of today and of the time that follows.
select etl.make_partitions(
    %(fact)s,
    array(
        select generate_series(
            now() at time zone 'UTC', (now() at time zone 'UTC') + %(ahead)s::interval, ('1 ' || %(every)s)::interval
        )
    )
);

-- name: make_for_rows
-- Make the partitions that hold the rows of a table.
select etl.make_partitions(
    %(fact)s,
    array(
        select distinct date_trunc('day', {moment})
        from {source}
        where {column} is not null
    )
);

-- name: older
-- List the partitions that end before an age, with the state of each: attached, detaching, detached, gone. First those that
-- are being detached, because the server detaches one at a time; then the oldest. What a person detaches is not removed.
select
    partitions.fact,
    partitioned_facts.column_name,
    partitions.first_day::text,
    partitions.until_day::text,
    partitions.name,
    case
        when pg_class.oid is null then 'gone'
        when inhrelid is null then 'detached'
        when inhdetachpending then 'detaching'
        else 'attached'
    end,
    coalesce(pg_total_relation_size(pg_class.oid), 0),
    partitions.is_removed,
    partitions.exported_to
from etl.partitions
join etl.partitioned_facts using (fact)
left join pg_namespace on nspname = split_part(partitions.fact, '.', 1)
left join pg_class on relnamespace = pg_namespace.oid and relname = partitions.name
left join pg_inherits on inhrelid = pg_class.oid
where partitions.fact = any (%(facts)s) and until_day <= (now() at time zone 'UTC')::date - %(keep)s::interval
    and (partitions.is_removed or inhrelid is not null and not inhdetachpending)
order by inhdetachpending is true desc, first_day, partitions.fact;

-- name: lock_removals
-- Let one session remove partitions of these tables at a time; return whether this one may.
select coalesce(bool_and(pg_try_advisory_lock(hashtextextended('etl:retention:' || fact, 0))), true)
from unnest(%(facts)s::text[]) as facts (fact);

-- name: begin_removal
-- Note that a partition is removed by intention: the deletion of its rows notes which buckets change.
update etl.partitions set is_removed = true where fact = %(fact)s and name = %(name)s;

-- name: digest
-- Return the number of the rows of a partition, and a sum over their values.
select count(*) || ' ' || coalesce(sum(hashtextextended(part::text, 0)::numeric), 0) from {partition} as part;

-- name: noted_place
-- Return the place that an export of a partition has begun to write to.
select exported_to from etl.partitions where fact = %(fact)s and name = %(name)s;

-- name: note_place
-- Note the place of an export of a partition.
update etl.partitions set exported_to = %(place)s where fact = %(fact)s and name = %(name)s;

-- name: note_emptied
-- Note that a table has no row left after a removal, so that a load misses none.
update etl.partitioned_facts set emptied_at = clock_timestamp()
where fact = %(fact)s and not exists (select from {table});

-- name: follows_deletions
-- Return whether a trigger of a table or of its partition, also one of a foreign key, or a subscriber follows the deletion
-- of rows.
select
    exists (
        select from pg_trigger
        where tgrelid in (to_regclass(%(table)s), to_regclass(%(partition)s)) and (tgtype & 8) <> 0 -- TRIGGER_TYPE_DELETE
    )
    or exists (
        select from pg_publication_tables
        where to_regclass(format('%%I.%%I', schemaname, tablename)) in (
            to_regclass(%(table)s), to_regclass(%(partition)s)
        )
    );

-- name: empty
-- Delete the rows of a partition by the name of its table: its triggers note which buckets change.
delete from {table} where {column} >= {first} and {column} < {until};

-- name: detach
-- Detach a partition; loads and readers of the table continue.
alter table {table} detach partition {partition} concurrently;

-- name: obstacles_to_detaching
-- List the partitions of a table for which the server detaches no partition concurrently, and whether each is the default
-- partition; the others are being detached.
select inhrelid::regclass::text, not inhdetachpending
from pg_inherits
join pg_partitioned_table on partrelid = inhparent
where inhparent = to_regclass(%(table)s) and (inhdetachpending or inhrelid = partdefid)
order by 2, 1;

-- name: detach_at_once
-- Detach a partition, with a lock that keeps writers and readers of the table away for a moment.
alter table {table} detach partition {partition};

-- name: be_patient_for_locks
-- Let no statement that waits for a lock keep others waiting for long.
select set_config('lock_timeout', '250ms', true);

-- name: finish_detaching
-- Finish a detaching that was cut off.
alter table {table} detach partition {partition} finalize;

-- name: forget
-- Forget a partition that is dropped.
delete from etl.partitions where fact = %(fact)s and name = %(name)s;
