-- name: index
-- Find the rows of a batch without reading the whole table.
create index {name} on {table} (etl_batch, etl_place);

-- name: batches
-- List the batches of a run: offset and number of records.
select "offset", count_records from etl.batches where run = %(run)s order by "offset";

-- name: range
-- The rows of the records of one batch from one place to another.
(select * from {table} where etl_batch = {batch} and etl_place between {lowest} and {highest});

-- name: check_deferred
-- Check now what the end of the transaction would check.
set constraints all immediate;

-- name: defer_again
-- Let the next records refer to each other.
set constraints all deferred;

-- name: delete_absent
-- Delete the records that the new source does not hold.
delete from {table} as old
where not exists (select from {source} as new where {same_key});
