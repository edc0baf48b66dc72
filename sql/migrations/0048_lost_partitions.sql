-- Changes by the name of a partition are noted as those by the name of its table, and so is a partition that is lost.

alter table etl.partitions add column is_removed boolean not null default false;

comment on column etl.partitions.is_removed is 'true: etl retention removes it';

-- The triggers of a table fire for statements that name it, and not for those that name a partition of it.
create function etl.watch_partition(relation regclass, partition regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $watch$
declare
    definition text;
begin
    for definition in
        select pg_get_triggerdef(pg_trigger.oid)
        from pg_trigger
        join pg_proc on pg_proc.oid = pg_trigger.tgfoid
        where pg_trigger.tgrelid = relation
            and not pg_trigger.tgisinternal
            and pg_trigger.tgname like 'etl\_note\_%'
            and pg_proc.pronamespace = 'etl'::regnamespace
            and not exists (
                select from pg_trigger as there where there.tgrelid = partition and there.tgname = pg_trigger.tgname
            )
    loop
        execute replace(definition, ' ON ' || relation::text || ' ', ' ON ' || partition::text || ' ');
    end loop;
end;
$watch$;

comment on function etl.watch_partition(regclass, regclass) is 'Let a partition note the changes of statements that name it, as its table does';
revoke all on function etl.watch_partition(regclass, regclass) from public;

-- A partition that a person drops or detaches takes its rows with it, and no trigger fires.
create function etl.note_lost_partitions() returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $lost$
declare
    lost integer;
begin
    with gone as (
        delete from etl.partitions
        where not is_removed and not exists (
            select
            from pg_inherits
            join pg_class on pg_class.oid = pg_inherits.inhrelid
            join pg_namespace on pg_namespace.oid = pg_class.relnamespace
            where pg_namespace.nspname = split_part(partitions.fact, '.', 1) and pg_class.relname = partitions.name
        )
        returning fact
    ),
    noted as (
        insert into etl.pending (aggregate)
        select distinct watches.aggregate from etl.watches where watches.fact in (select gone.fact from gone)
    )
    select count(*) into lost from gone;
    return lost;
end;
$lost$;

comment on function etl.note_lost_partitions() is 'Make the aggregates pending as a whole whose facts lost a partition by hand; return how many partitions are lost';
revoke all on function etl.note_lost_partitions() from public;

-- A loader owns no table: this function makes partitions of the listed tables for it, and nothing else.
create or replace function etl.make_partitions(of_fact text, moments timestamp[]) returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $make$
declare
    wanted etl.partitioned_facts%rowtype;
    relation regclass;
    lower_day date;
    upper_day date;
    partition text;
    schema_name text;
    has_full_identity boolean;
    made integer := 0;
begin
    select * into wanted from etl.partitioned_facts where partitioned_facts.fact = of_fact;
    if not found then
        return 0;
    end if;
    select pg_class.oid::regclass, pg_namespace.nspname, pg_class.relreplident = 'f'
    into strict relation, schema_name, has_full_identity
    from pg_class
    join pg_namespace on pg_namespace.oid = pg_class.relnamespace
    where pg_namespace.nspname = split_part(of_fact, '.', 1) and pg_class.relname = split_part(of_fact, '.', 2);
    perform etl.note_lost_partitions();
    for lower_day in
        select distinct date_trunc(wanted.every, moment)::date
        from unnest(moments) as moment
        -- A year out of this range is a fault of the data: no partition holds it.
        where moment >= '1900-01-01' and moment < '2200-01-01'
        order by 1
    loop
        continue when exists (select from etl.partitions where fact = of_fact and first_day = lower_day);
        -- One session makes partitions of a table at a time; loads and readers do not wait for it.
        execute format('lock table %s in share update exclusive mode', relation);
        continue when exists (select from etl.partitions where fact = of_fact and first_day = lower_day);
        begin
            upper_day := lower_day + ('1 ' || wanted.every)::interval;
            partition := left(split_part(of_fact, '.', 2), 50)
                || to_char(lower_day, case wanted.every when 'month' then '"_p"YYYYMM' else '"_p"YYYYMMDD' end);
            if to_regclass(format('%I.%I', schema_name, partition)) is not null then
                partition := partition || '_2';  -- The first one was detached by a person, who may need it.
            end if;
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
            perform etl.watch_partition(relation, format('%I.%I', schema_name, partition)::regclass);
            insert into etl.partitions (fact, first_day, until_day, name) values (of_fact, lower_day, upper_day, partition);
            made := made + 1;
        exception when invalid_object_definition then
            null;  -- A partition that a person made holds some of these days.
        end;
    end loop;
    return made;
end;
$make$;

comment on function etl.make_partitions(text, timestamp[]) is 'Make the partitions of a listed table that hold these moments (UTC), where they are missing; return how many were made';
revoke all on function etl.make_partitions(text, timestamp[]) from public;
