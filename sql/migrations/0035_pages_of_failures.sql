-- A page of the files of the failed store is read in their order, from any place.

create index failures_created_idx on etl.failures (created_at, id);
