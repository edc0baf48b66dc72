-- Facts that the definitions of datasets divide into months or days, and a function by which a load makes a partition.

create table etl.partitioned_facts (
    fact text primary key,
    column_name text not null,
    every text not null check (every in ('month', 'day'))
);

comment on table etl.partitioned_facts is 'One row per table of a dataset that is partitioned by partition_by of its definition';
comment on column etl.partitioned_facts.fact is 'schema and name of the table';
comment on column etl.partitioned_facts.column_name is 'column by which the table is partitioned: a date, timestamp or timestamptz';
comment on column etl.partitioned_facts.every is 'what a partition holds: a month or a day, in UTC';

create table etl.partitions (
    fact text not null references etl.partitioned_facts,
    first_day date not null,
    until_day date not null,
    name text not null,
    primary key (fact, first_day)
);

comment on table etl.partitions is 'One row per partition that a load or etl db migrate has made and etl retention has not removed';
comment on column etl.partitions.fact is 'schema and name of the partitioned table';
comment on column etl.partitions.first_day is 'first day (UTC) that the partition holds';
comment on column etl.partitions.until_day is 'first day (UTC) after those that the partition holds';
comment on column etl.partitions.name is 'name of the partition, in the schema of the table';

-- A loader owns no table: this function makes partitions of the listed tables for it, and nothing else.
create function etl.make_partitions(of_fact text, moments timestamp[]) returns integer
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
        upper_day := lower_day + ('1 ' || wanted.every)::interval;
        partition := left(split_part(of_fact, '.', 2), 50)
            || to_char(lower_day, case wanted.every when 'month' then '"_p"YYYYMM' else '"_p"YYYYMMDD' end);
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
        insert into etl.partitions (fact, first_day, until_day, name) values (of_fact, lower_day, upper_day, partition);
        made := made + 1;
    end loop;
    return made;
end;
$make$;

comment on function etl.make_partitions(text, timestamp[]) is 'Make the partitions of a listed table that hold these moments (UTC), where they are missing; return how many were made';
revoke all on function etl.make_partitions(text, timestamp[]) from public;
