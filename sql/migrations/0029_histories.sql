-- Tables with history keep the versions of their rows that a change or a deletion ends.

create table etl.histories (
    table_name text primary key,
    dataset text not null,
    since timestamptz not null default now()
);

comment on table etl.histories is 'one row per table that keeps the versions of its rows that end, in the table NAME_history';
comment on column etl.histories.table_name is 'table with history; its child tables keep their rows, too';
comment on column etl.histories.dataset is 'dataset whose definition has the option; other datasets may load the table, too';
comment on column etl.histories.since is 'since when each version that ends is kept without a gap';

-- A row is another version when one of its columns is another, and not when only its lineage is. The condition of the
-- trigger compares the columns, so that the function runs for changed rows only.
create function etl.begin_version() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $begin$
begin
    if current_setting('etl.history', true) is distinct from 'off' then
        new.etl_valid_from := greatest(now(), old.etl_valid_from);
    end if;
    return new;
end;
$begin$;

comment on function etl.begin_version() is 'Note since when the table shows the new version of a row';
