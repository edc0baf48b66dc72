-- name: exists
-- Return whether a table exists.
select to_regclass(%(table)s) is not null;

-- name: add_primary_key
-- Make the columns that identify a row the primary key of a table.
alter table {table} add primary key ({key});

-- name: add_column
-- Add a column to a table: to a history, or to an aggregate whose definition has got one.
alter table {table} add column {column} {type};

-- name: hold_writers
-- Wait until nobody writes to a table, and let nobody write until the end of the transaction; readers do not wait.
lock table {table} in share row exclusive mode;

-- name: analyze
-- Update the planner's statistics of a table.
analyze {table};

-- name: drop
-- Drop a table if it exists.
drop table if exists {table};

-- name: row_count
-- The number of rows of a table, as a value in another statement.
(select count(*) from {table})

-- name: delete_batches
-- Delete the rows of some batches.
delete from {table} where etl_batch = any(%(batches)s);

-- name: delete_all
-- Delete every row, without the lock that truncation takes.
delete from {table};

-- name: make_function
-- Make the function of a trigger: the user who changes the table needs no right on what it writes, and the settings of the
-- session change no value.
create or replace function {function}() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set bytea_output = 'hex'
set extra_float_digits = 1
set standard_conforming_strings = on
as $body$
{body}
$body$;

-- name: comment_function
-- Describe the function in the database.
comment on function {function}() is {comment};

-- name: revoke_function
-- Let only the triggers call the function.
revoke all on function {function}() from public;

-- name: comment_column
-- Describe a column in the database.
comment on column {column} is {comment};
