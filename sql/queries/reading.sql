-- name: forbid_writing
-- Let the transaction change nothing.
set transaction read only;

-- name: read_at
-- Return the instant of the snapshot.
select transaction_timestamp();

-- name: freshness_of
-- Return how fresh one aggregate is.
select * from analytics.freshness where aggregate = %(aggregate)s;

-- name: columns
-- List the columns of a table or view with their comments, in their order.
select attname, coalesce(col_description(attrelid, attnum), '')
from pg_attribute
where attrelid = to_regclass(%(table)s) and attnum > 0 and not attisdropped
order by attnum;

-- name: rows
-- Return the rows of a table, at most `limit`.
select {columns} from {table} order by {order} limit {limit};

-- name: rows_as_csv
-- Return the rows of a table as CSV with a header, at most `limit`.
copy (select {columns} from {table} order by {order} limit {limit}) to stdout (format csv, header true);

-- name: count_rows
-- Count the rows of a table.
select count(*) from {table};
