-- name: table_shape
-- Return no row of a table, but its columns.
select * from {table} limit 0;

-- name: select_shape
-- Return no row of the computation of an aggregate, but its columns.
select * from (
{select}
) as computed limit 0;

-- name: primary_key
-- List the columns of a table's primary key, in its order.
select attname
from pg_index
cross join unnest(indkey::smallint[]) with ordinality as key_column (attnum, place)
join pg_attribute on attrelid = indrelid and pg_attribute.attnum = key_column.attnum
where indrelid = to_regclass(%(table)s) and indisprimary
order by place;

-- name: lock_for_change
-- Let no refresh run while the table of an aggregate is made again; the lock ends with the transaction.
select pg_advisory_xact_lock(hashtextextended('etl:refresh:' || %(aggregate)s, 0));

-- name: forget_refresh
-- Forget the last refresh of an aggregate.
delete from etl.refreshes where aggregate = %(aggregate)s;

-- name: create_aggregate
-- Make the empty table of an aggregate with the columns that it computes.
create table {table} as
{select}
with no data;

-- name: make_shape
-- Make an empty table with the columns that an aggregate computes.
create temporary table etl_shape on commit drop as
{select}
with no data;

-- name: columns_of_shape
-- List the names and types of these columns but for the first.
select attname, format_type(atttypid, atttypmod)
from pg_attribute
where attrelid = 'pg_temp.etl_shape'::regclass and attnum > %(count_kept)s and not attisdropped
order by attnum;

-- name: drop_shape
-- Drop the table with the columns of an aggregate.
drop table pg_temp.etl_shape;

-- name: comment_table
-- Describe a row of an aggregate in the database.
comment on table {table} is {comment};

-- name: register
-- Register an aggregate, so that triggers note the changes of its facts.
insert into etl.aggregates (aggregate, grain, bucket, datasets)
values (%(aggregate)s, %(grain)s, %(bucket)s, %(datasets)s)
on conflict (aggregate) do update set grain = excluded.grain, bucket = excluded.bucket, datasets = excluded.datasets
where (aggregates.grain, aggregates.bucket, aggregates.datasets)
    is distinct from (excluded.grain, excluded.bucket, excluded.datasets);

-- name: watches
-- List how the facts of an aggregate lead to its buckets.
select fact, noted, via_table, via_column, via_type, via_day
from etl.watches
where aggregate = %(aggregate)s
order by fact, noted;

-- name: forget_watches
-- Forget how the facts of an aggregate lead to its buckets.
delete from etl.watches where aggregate = %(aggregate)s;

-- name: watch
-- Register how a fact of an aggregate leads to its buckets.
insert into etl.watches (aggregate, fact, noted, via_table, via_column, via_type, via_day)
values (%(aggregate)s, %(fact)s, %(noted)s, %(via_table)s, %(via_column)s, %(via_type)s, %(via_day)s);

-- name: column_type
-- Return the type of a column, and no row for a missing column.
select format_type(atttypid, null)
from pg_attribute
where attrelid = to_regclass(%(table)s) and attname = %(column)s and attnum > 0 and not attisdropped;

-- name: try_noted
-- Return no row, but the type of an expression over the rows of a fact.
select {noted} as noted from {fact} limit 0;

-- name: try_key
-- Return no row, but the types of a noted key and of the column that is searched for it.
select fact.{noted}, via.{column} from {fact} as fact cross join {via} as via limit 0;

-- name: make_try
-- Make an empty table like a fact.
create temporary table etl_try (like {fact}) on commit drop;

-- name: try_immutable
-- Make an index that only an immutable expression can have.
create index on pg_temp.etl_try (({noted}));

-- name: drop_try
-- Drop the table that expressions were tried on.
drop table pg_temp.etl_try;

-- name: notes
-- List what triggers note of a fact for all aggregates: expression, whether it is a key, and a kind of buckets.
select watches.noted, watches.via_table is not null as is_key, min(aggregates.bucket)
from etl.watches
join etl.aggregates on aggregates.aggregate = watches.aggregate
where watches.fact = %(fact)s
group by watches.noted, is_key
order by watches.noted, is_key;

-- name: make_bucket_of
-- Make the function that returns the bucket of a noted time. It returns null (all buckets) where the calendar ends, because
-- the buckets before and after it cannot be computed, and for a kind that this installation does not know: the aggregate
-- of another installation must hinder no refresh.
create or replace function etl.bucket_of(kind text, noted timestamp) returns timestamp
language plpgsql
immutable
strict
parallel safe
as $bucket$
begin
    if kind not in ({kinds}) or noted not between timestamp '4713-01-01 BC' and timestamp '290000-12-31' then
        return null;
    end if;
    return pg_catalog.date_trunc(kind, noted);
end;
$bucket$;

-- name: installed_triggers
-- Return the body of the function that notes the changes of a fact (null: none), and how many triggers call it.
select
    (
        select prosrc
        from pg_proc
        where pronamespace = 'etl'::regnamespace and proname = %(function)s and pronargs = 0
            and array['DateStyle=ISO, YMD', 'standard_conforming_strings=on'] <@ proconfig
    ),
    (
        select count(*)
        from pg_trigger
        join pg_proc on pg_proc.oid = tgfoid
        where tgrelid = to_regclass(%(fact)s) and tgenabled in ('O', 'A')
            and pronamespace = 'etl'::regnamespace and proname = %(function)s
    );

-- name: unwatched
-- List the facts of aggregates that lack one of the four triggers, or on which one is disabled.
select distinct watches.fact
from etl.watches
where to_regclass(watches.fact) is not null and 4 > (
    select count(*)
    from pg_trigger
    join pg_proc on pg_proc.oid = tgfoid
    where tgrelid = to_regclass(watches.fact) and tgenabled in ('O', 'A')
        and pronamespace = 'etl'::regnamespace and proname like 'note\_%'
)
order by watches.fact;

-- name: is_fact
-- Return whether a table has the lineage of loaded rows.
select count(*) = 3
from pg_attribute
where attrelid = to_regclass(%(table)s) and attname in ('etl_run', 'etl_batch', 'etl_place') and not attisdropped;

-- name: divided
-- List the facts that are partitioned, or have tables that inherit from them, with their aggregates: a statement that
-- names a part fires no trigger of the fact. Partitions that a definition asks for have triggers of their own.
select watches.fact, array_agg(distinct watches.aggregate order by watches.aggregate)
from etl.watches
join pg_class on pg_class.oid = to_regclass(watches.fact)
where exists (
    select
    from (
        select relid from pg_partition_tree(pg_class.oid) where isleaf
        union all
        select inhrelid from pg_inherits where inhparent = pg_class.oid and pg_class.relkind <> 'p'
    ) as part
    where part.relid <> pg_class.oid and not exists (
        select from pg_trigger where tgrelid = part.relid and tgname = 'etl_note_insert' and tgenabled in ('O', 'A')
    )
)
group by watches.fact
order by watches.fact;

-- name: note_values
-- Note days, hours and keys of the changed rows. One pass for all of them costs a load half of one pass for each.
insert into etl.touched (fact, noted, days, hours, keys)
        select {fact}, noted, days, hours, keys
        from (
            select
                {arrays}
            from (
                select {names}
                from (
                    {rows}
                ) as changed ({names})
                group by grouping sets ({sets})
            ) as changed_values
        ) as gathered
        cross join lateral (
            values
                {notes}
        ) as notes (noted, days, hours, keys)
        where num_nonnulls(days, hours, keys) > 0;

-- name: note_change
-- Note that a statement changed rows.
insert into etl.touched (fact, noted)
        select {fact}, ''
        where exists (select from {rows});

-- name: notes_body
-- Note what a statement changed, in its own transaction; the user who changes the fact needs no right on the notes.
begin
    if tg_op = 'INSERT' then
        {inserted}
    elsif tg_op = 'UPDATE' then
        {updated}
    elsif tg_op = 'DELETE' then
        {deleted}
    else
        insert into etl.touched (fact) values ({fact});
    end if;
    return null;
end;

-- name: make_triggers
-- Make the triggers that call the function after every statement that changes a fact.
create or replace trigger etl_note_insert after insert on {fact}
referencing new table as new_rows for each statement execute function {function}();
create or replace trigger etl_note_update after update on {fact}
referencing old table as old_rows new table as new_rows for each statement execute function {function}();
create or replace trigger etl_note_delete after delete on {fact}
referencing old table as old_rows for each statement execute function {function}();
create or replace trigger etl_note_truncate after truncate on {fact}
for each statement execute function {function}();

-- name: watch_partitions
-- Let each partition of a fact that was made by its definition note the changes of statements that name it, and each one of
-- a fact that is divided by a hash.
select etl.watch_partition(to_regclass(%(fact)s), part)
from (
    select pg_class.oid
    from etl.partitions
    join pg_namespace on nspname = split_part(fact, '.', 1)
    join pg_class on relnamespace = pg_namespace.oid and relname = partitions.name
    where fact = %(fact)s
    union all
    select relid
    from pg_partitioned_table cross join lateral pg_partition_tree(partrelid)
    where partrelid = to_regclass(%(fact)s) and partstrat = 'h' and isleaf
) as parts (part);

-- name: add_pending_all
-- Make every aggregate that reads a fact pending as a whole.
insert into etl.pending (aggregate) select distinct aggregate from etl.watches where fact = %(fact)s;

-- name: add_pending_whole
-- Make an aggregate pending as a whole.
insert into etl.pending (aggregate)
select %(aggregate)s
where not exists (select from etl.pending where aggregate = %(aggregate)s and bucket is null);

-- name: grant_to_etl_loader
-- Let loaders refresh an aggregate.
grant select, insert, update, delete on {table} to etl_loader;

-- name: grant_to_etl_analyst
-- Let analysts read an aggregate.
grant select on {table} to etl_analyst;

-- name: grant_freshness
-- Let a group role see how fresh the aggregates are.
grant select on analytics.freshness to {role};
