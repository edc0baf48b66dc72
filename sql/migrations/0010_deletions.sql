-- What a replace deleted and kept.

alter table etl.attempts add column rows_deleted bigint[];
alter table etl.attempts add column rows_kept bigint[];

comment on column etl.attempts.rows_deleted is 'rows that a replace deleted because the source does not hold them, for each table of the dataset, in the order of the tables; null: the attempt published no replace';
comment on column etl.attempts.rows_kept is 'rows that a replace kept although the source does not hold them, because they may belong to rejected records, in the same order';
