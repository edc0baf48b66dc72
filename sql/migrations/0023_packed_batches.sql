-- The batches of an old run can become one row, and so can its attempts.

alter table etl.batches
    add column part_offsets bigint[],
    add column parts bytea;

alter table etl.attempts add column seconds_before double precision;

comment on column etl.batches.hash is 'xxh3-128 of its bytes; empty where part_offsets is not null';
comment on column etl.batches.part_offsets is 'for a row that etl runs purge has made of several batches, the byte at which each begins, as in etl_batch of the rows; null: the row is one batch';
comment on column etl.batches.parts is 'for each of these batches its bytes and its records as unsigned LEB128, and the xxh3-128 of its bytes';
comment on column etl.attempts.seconds_before is 'seconds of earlier attempts of the run that etl runs purge has removed; null: none';
