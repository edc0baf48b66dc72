-- name: settings
-- Behave as a session of PostgreSQL in this tool does: instants are shown in UTC, and null is the largest value. Nothing but
-- the answer is written to standard output.
set enable_progress_bar = false;
set TimeZone = 'UTC';
set default_null_order = 'nulls_last_on_asc_first_on_desc';

-- name: settings_of_writing
-- Use little memory: order does not matter, and what does not fit goes to the disk.
set memory_limit = '96MB';
set threads = 1;
set preserve_insertion_order = false;
set temp_directory = {folder};

-- name: make_schema
-- Make a schema of PostgreSQL.
create schema if not exists {schema};

-- name: make_view
-- Make a table of an export known by its name in PostgreSQL.
create view {table} as select {columns} from {rows};

-- name: make_table
-- Store the rows of a table.
create table {table} as select {columns} from {rows};

-- name: comment
-- Keep the comment of a table or of a column.
comment on {kind} {name} is {comment};

-- name: parquet_files
-- The rows of files. The names of their folders are no columns.
read_parquet([{paths}], hive_partitioning = false)

-- name: no_file
-- No row: a table that is divided into months and has no row has no file.
(values (1)) as nothing where false

-- name: no_value
-- The type of a column that has no row.
null::{type} as {column}

-- name: make_trimmed
-- Return a text without the blanks of all scripts, as in PostgreSQL.
create macro analytics.trimmed(value) as trim(value, {blanks});

-- name: make_key_of
-- Return the key of a name in the aggregates, as in PostgreSQL.
create macro analytics.key_of(name) as case
    when name is null or analytics.trimmed(name) = '' then '(none)'
    when starts_with(name, '(none)') or starts_with(name, '"') then '"' || name || '"'
    else name
end;

-- name: make_hours_between
-- Return the hours from one instant to another, rounded to 6 places, as in PostgreSQL.
create macro analytics.hours_between(first, last) as
    round((epoch_us(last) - epoch_us(first))::decimal(38, 0) / 3600000000, 6)::decimal(18, 6);

-- name: attach
-- Open a file of DuckDB to read it.
attach {path} as exported (read_only);
use exported;

-- name: syntax_tree
-- Return the syntax tree of a query as JSON.
select json_serialize_sql($1);

-- name: make_now
-- Let now() be the instant of the export.
create temp macro now() as {read_at}::timestamptz;

-- name: make_to_char
-- Return a time to the minute: the one format in which reports use the function of PostgreSQL.
create temp macro to_char(value, format) as strftime(value, '%Y-%m-%d %H:%M');
