-- Partitions of tables with long names, and beside a default partition; tables that a removal of partitions has emptied.

alter table etl.partitioned_facts add column emptied_at timestamptz;

comment on column etl.partitioned_facts.emptied_at is 'last time at which etl retention has removed all rows of the table; null: never';

-- A partition that is detached and not dropped yet hinders no load: the next one of these days is made beside it.
alter table etl.partitions drop constraint partitions_pkey;
alter table etl.partitions add primary key (fact, name);

-- Tables whose names begin with the same 50 letters have partitions of their own.
create function etl.partition_name(of_schema text, of_table text, suffix text) returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $name$
declare
    wanted text := left(of_table, 50) || suffix;
    found text := wanted;
begin
    -- The first one was detached by a person, who may need it, or a table with a similar name has it.
    for number in 2..99 loop
        exit when to_regclass(format('%I.%I', of_schema, found)) is null;
        found := wanted || '_' || number;
    end loop;
    return found;
end;
$name$;

comment on function etl.partition_name(text, text, text) is 'A free name for a partition: the name of its table, cut to 50 letters, and a suffix';
revoke all on function etl.partition_name(text, text, text) from public;

-- While the server detaches a partition, it takes no row and leaves room for no other. A caller tries again while etl
-- retention detaches it; a detaching that was cut off is finished here, when nobody reads by an older state of the table.
create function etl.has_partition(of_fact text, lower_day date) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $has$
declare
    part record;
    is_there boolean := false;
begin
    for part in
        select nspname, relname, is_removed, inhdetachpending
        from etl.partitions
        left join pg_namespace on nspname = split_part(fact, '.', 1)
        left join pg_class on relnamespace = pg_namespace.oid and relname = partitions.name
        left join pg_inherits on inhrelid = pg_class.oid
        where fact = of_fact and first_day = lower_day and (not is_removed or inhrelid is not null)
    loop
        if part.is_removed and part.inhdetachpending then
            if not pg_try_advisory_xact_lock_shared(hashtextextended('etl:retention:' || of_fact, 0)) then
                raise lock_not_available using message = 'etl retention removes the partition of these days now';
            end if;
            execute format(
                'alter table %I.%I detach partition %I.%I finalize',
                part.nspname, split_part(of_fact, '.', 2), part.nspname, part.relname
            );
        else
            is_there := true;
        end if;
    end loop;
    return is_there;
end;
$has$;

comment on function etl.has_partition(text, date) is 'Whether a fact has the partition that begins with a day (UTC); fails while etl retention detaches it';
revoke all on function etl.has_partition(text, date) from public;

-- The table of a fact may be a plain one still, while its partitioned copy is filled: its partitions have their places
-- and names already.
create or replace function etl.add_partitions(relation regclass, of_fact text, moments timestamp[]) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $add$
declare
    wanted etl.partitioned_facts%rowtype;
    lower_day date;
    upper_day date;
    partition text;
    schema_name text := split_part(of_fact, '.', 1);
    has_full_identity boolean := (select relreplident = 'f' from pg_class where oid = relation);
    made integer := 0;
begin
    select * into strict wanted from etl.partitioned_facts where partitioned_facts.fact = of_fact;
    perform etl.note_lost_partitions();
    for lower_day in
        select distinct date_trunc(wanted.every, moment)::date
        from unnest(moments) as moment
        -- A year out of this range is a fault of the data: no partition holds it.
        where moment >= '1900-01-01' and moment < '2200-01-01'
        order by 1
    loop
        continue when etl.has_partition(of_fact, lower_day);
        -- One session makes partitions of a table at a time; loads and readers do not wait for it.
        execute format('lock table %s in share update exclusive mode', relation);
        continue when etl.has_partition(of_fact, lower_day);
        begin
            upper_day := lower_day + ('1 ' || wanted.every)::interval;
            partition := etl.partition_name(
                schema_name,
                split_part(of_fact, '.', 2),
                to_char(lower_day, case wanted.every when 'month' then '"_p"YYYYMM' else '"_p"YYYYMMDD' end)
            );
            execute format(
                'create table %I.%I (like %s including defaults including constraints including generated including storage)',
                schema_name, partition, relation
            );
            if has_full_identity then
                execute format('alter table %I.%I replica identity full', schema_name, partition);
            end if;
            execute format(
                'alter table %s attach partition %I.%I for values from (%L) to (%L)',
                relation, schema_name, partition, lower_day, upper_day
            );
            perform etl.watch_partition(
                to_regclass(format('%I.%I', schema_name, split_part(of_fact, '.', 2))),
                format('%I.%I', schema_name, partition)::regclass
            );
            insert into etl.partitions (fact, first_day, until_day, name) values (of_fact, lower_day, upper_day, partition);
            made := made + 1;
        exception when invalid_object_definition or check_violation then
            null;  -- A partition that a person made holds some of these days, or the default partition has rows of them.
        end;
    end loop;
    return made;
end;
$add$;
