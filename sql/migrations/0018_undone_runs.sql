-- A run can be taken back: its rows are deleted, and its source loads again as a new run.

alter table etl.runs
    add column undone_at timestamptz,
    add column undone_by text,
    add column rows_undone bigint[],
    add column rows_replaced bigint;

alter table etl.batches add column rows_replaced bigint;

comment on column etl.runs.superseded_by is 'number of the run that took its place: a replace, or a forced run whose source holds all its records; its own number when its rows are gone or were taken back; null: none';
comment on column etl.runs.undone_at is 'when etl runs undo took the run back: its rows were deleted, and its source loads again as a new run; null: never';
comment on column etl.runs.undone_by is 'user and machine that took it back';
comment on column etl.runs.rows_undone is 'rows that the undo deleted from each table of the dataset, in the order of the tables';
comment on column etl.runs.rows_replaced is 'older versions, child rows aside, that the publication of an atomic merge wrote over, at most; null: unknown, or no atomic merge';
comment on column etl.batches.rows_replaced is 'older versions, child rows aside, that a merge wrote over, at most; 0 before the publication of an atomic run; null: unknown, or no merge';
