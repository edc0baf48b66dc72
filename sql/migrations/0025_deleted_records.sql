-- A record may delete the row of its key; a load counts these records.

alter table etl.batches add column count_deleted bigint;

comment on column etl.batches.count_deleted is 'loaded records that deleted their key; a part of count_loaded; null: none';
