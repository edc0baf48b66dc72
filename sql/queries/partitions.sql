-- name: kind
-- Return the kind of a table, and the columns by which it is partitioned; no row for a missing table.
select
    relkind::text,
    array(
        select attname::text
        from unnest(partattrs::smallint[]) with ordinality as part (number, place)
        join pg_attribute on attrelid = pg_class.oid and attnum = part.number
        order by place
    )
from pg_class
left join pg_partitioned_table on partrelid = pg_class.oid
where pg_class.oid = to_regclass(%(table)s);

-- name: list_fact
-- List a table as one that is partitioned.
insert into etl.partitioned_facts (fact, column_name, every) values (%(fact)s, %(column)s, %(every)s)
on conflict (fact) do update set column_name = excluded.column_name, every = excluded.every
where (partitioned_facts.column_name, partitioned_facts.every) is distinct from (excluded.column_name, excluded.every);

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
-- List the partitions that end before an age, the oldest first, with the state of each: attached, detaching, detached, gone.
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
    coalesce(pg_total_relation_size(pg_class.oid), 0)
from etl.partitions
join etl.partitioned_facts using (fact)
left join pg_namespace on nspname = split_part(partitions.fact, '.', 1)
left join pg_class on relnamespace = pg_namespace.oid and relname = partitions.name
left join pg_inherits on inhrelid = pg_class.oid
where partitions.fact = any (%(facts)s) and until_day <= (now() at time zone 'UTC')::date - %(keep)s::interval
order by first_day, partitions.fact;

-- name: begin_removal
-- Note that a partition is removed by intention: its rows are deleted first, and so its changes are noted.
update etl.partitions set is_removed = true where fact = %(fact)s and name = %(name)s;

-- name: empty
-- Delete the rows of a partition by the name of its table: its triggers note which buckets change.
delete from {table} where {column} >= {first} and {column} < {until};

-- name: detach
-- Detach a partition; loads and readers of the table continue.
alter table {table} detach partition {partition} concurrently;

-- name: finish_detaching
-- Finish a detaching that was cut off.
alter table {table} detach partition {partition} finalize;

-- name: forget
-- Forget a partition that is dropped.
delete from etl.partitions where fact = %(fact)s and name = %(name)s;
