-- name: lock_shared
-- Wait for batches with deletions, and let these wait.
lock table {table} in row exclusive mode;

-- name: delete_children
-- Delete the child rows of the keys that the source deletes, where the deletion is not older than the record.
delete from {child} as child
using {table} as old, {deletions} as excluded
where {is_key_of_child} and {is_key_of_excluded} and {condition}
    and ({key_of_excluded}) in (select {key} from {source} as batch);

-- name: count_children
-- Count the child rows of the keys that the source deletes.
select count(*)
from {child} as child, {table} as old, {deletions} as excluded
where {is_key_of_child} and {is_key_of_excluded} and {condition}
    and ({key_of_excluded}) in (select {key} from {source} as batch);

-- name: delete_records
-- Delete the rows of the keys that the source deletes, where the deletion is not older.
delete from {table} as old
using {deletions} as excluded
where {is_key_of_excluded} and {condition} and ({key_of_excluded}) in (select {key} from {source} as batch);

-- name: count_records
-- Count the rows of the keys that the source deletes.
select count(*)
from {table} as old, {deletions} as excluded
where {is_key_of_excluded} and {condition} and ({key_of_excluded}) in (select {key} from {source} as batch);

-- name: not_deleted
-- The rows of the source whose keys no later record has deleted.
(
    select {columns_of_old}
    from {source} as old
    where not exists (select from {deletions} as excluded where {is_key_of_excluded} and {condition})
);
