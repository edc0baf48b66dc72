-- name: make_text
-- Make the table that holds a refused batch as text, so that no value is checked yet.
create temporary table {text} ({columns}) on commit drop;

-- name: index_text
-- Find the rows of one record without reading the whole table.
create index on {text} (etl_place);

-- name: types
-- Return the type of each column without its modifier, and the type below all domains without their checks: a cast to
-- varchar(5) would cut the text, but the assignment that follows refuses it as COPY does.
with recursive below (attname, type_id) as (
    select a.attname, a.atttypid
    from pg_attribute a
    where a.attrelid = %(table)s::regclass and a.attnum > 0 and not a.attisdropped
    union all
    select below.attname, t.typbasetype
    from below join pg_type t on t.oid = below.type_id
    where t.typbasetype <> 0
)
select below.attname, format_type(below.type_id, -1)
from below join pg_type t on t.oid = below.type_id
where t.typbasetype = 0;

-- name: make_refused
-- Make the table in which the block notes the refused records.
create temporary table {refused} (
    place integer primary key,
    sqlstate text not null,
    constraint_name text not null,
    schema_name text not null,
    table_name text not null,
    column_name text not null
) on commit drop;

-- name: block
-- Run the block that writes the records that the server accepts.
do {body};

-- name: prefer_indexes
-- Use indexes: rows are written few at a time, and the planner may not know the size of new tables; a plan that reads a
-- whole table for each record would take hours.
select
    set_config('enable_seqscan', 'off', true),
    set_config('enable_hashjoin', 'off', true),
    set_config('enable_mergejoin', 'off', true);

-- name: body
-- Write a hundred records at a time, ten when a hundred are refused, and one by one when ten are refused, each time in a
-- subtransaction: continuing after the record that an error names would send the rest of the batch again for each bad
-- record. Deferred constraints are checked at the end of each subtransaction, where the faulty record is known.
#variable_conflict use_column
declare
    lowest integer;
    highest integer;
    last_place integer;
    size integer := 100;
    at_constraint text;
    at_schema text;
    at_table text;
    at_column text;
    at_written bigint;
    judged text[];
begin
    select min(etl_place), max(etl_place) into lowest, last_place from {places};
    while lowest <= last_place loop
        begin
            highest := lowest + size - 1;
            judged := null;
            {judgements}
            judged := null;
            set constraints all deferred;
            {statements};
            set constraints all immediate;
            lowest := lowest + size;
        exception when assert_failure or others then -- "others" leaves out a failed assertion
            if sqlstate ~ {not_of_data} and (judged is null or sqlstate !~ {of_value}) then
                raise;
            end if;
            if size > 1 then
                size := size / 10;
                continue;
            end if;
            get stacked diagnostics
                at_constraint = constraint_name,
                at_schema = schema_name,
                at_table = table_name,
                at_column = column_name;
            if judged is not null then
                at_schema := judged[1];
                at_table := judged[2];
                at_column := judged[3];
            end if;
            insert into {refused} values (lowest, sqlstate, at_constraint, at_schema, at_table, at_column);
            lowest := lowest + 1;
        end;
        if lowest % 100 = 1 then
            size := 100;
        elsif lowest % 10 = 1 then
            size := 10;
        end if;
    end loop;
end;

-- name: judgement
-- Let a type that only the server knows read the texts of a column by itself: any error is then one of a text.
judged := {names};
perform count({column}::{type}) from {text} where etl_place between lowest and highest;

-- name: refused
-- List the refused records.
select place, sqlstate, constraint_name, schema_name, table_name, column_name from {refused} order by place;

-- name: range_of_text
-- The rows of the records from place lowest to highest, with their types.
(select {casts} from {text} where etl_place between lowest and highest);

-- name: won_of_range
-- The records from place lowest to highest whose version won.
(select * from {won} where etl_place between lowest and highest);
