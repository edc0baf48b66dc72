-- The comments of the ledger and of the freshness in plain English.

comment on schema etl_staging is 'rows of atomic runs that are not visible yet, and keys of unfinished runs';

comment on table etl.runs is 'one row per run: loading one source into one dataset, from the first attempt to the end';
comment on column etl.runs.run is 'name of the run: its start (UTC) and a random suffix';
comment on column etl.runs.number is 'order of the runs; the value of etl_run in the rows that it loaded';
comment on column etl.runs.source is 'name of the source, as given to the first attempt';
comment on column etl.runs.head_bytes is 'number of bytes that head_sha256 covers, at most 1 MiB';
comment on column etl.runs.source_bytes is 'size of the source as stored, in bytes, if known';
comment on column etl.runs.is_atomic is 'true when no row is visible before all rows are';
comment on column etl.runs.is_forced is 'true when --force loaded the source again';
comment on column etl.runs.started_at is 'start of the first attempt';
comment on column etl.runs.finished_at is 'when the source was read to its end and every batch was recorded; null: not finished';
comment on column etl.runs.published_xact is 'transaction that made these rows visible';
comment on column etl.runs.on_duplicate is 'which of the records with the same key is kept: newest, first, or reject (the first, and the others are rejected); null: no policy';

comment on table etl.attempts is 'one row per attempt of a run: the first attempt, and each resume';
comment on column etl.attempts.run is 'run of the attempt';
comment on column etl.attempts.started_at is 'start of the attempt';
comment on column etl.attempts.ended_at is 'end of the attempt; null while it runs, and after it was killed';
comment on column etl.attempts.exit_code is 'exit code of the attempt';
comment on column etl.attempts.count_read is 'records read, including skipped records';
comment on column etl.attempts.count_retried is 'retries of batches';
comment on column etl.attempts.bytes_read is 'bytes read of the decompressed source';
comment on column etl.attempts.source is 'name of the source, as given to this attempt';
comment on column etl.attempts.options is 'options that a command needs to continue the run';

comment on table etl.batches is 'one row per batch, inserted by the transaction that loads it';
comment on column etl.batches.run is 'run of the batch';
comment on column etl.batches."offset" is 'byte of the decompressed source at which the batch begins';
comment on column etl.batches.bytes is 'length of the batch in the decompressed source, in bytes';
comment on column etl.batches.attempt is 'attempt that loaded the batch';
comment on column etl.batches.count_rejected is 'records that were rejected because of their data';
comment on column etl.batches.count_failed is 'records of a batch that could not load';
comment on column etl.batches.rows is 'rows sent by COPY for each table of the dataset, in the order of the tables';
comment on column etl.batches.loaded_at is 'start of the transaction that loaded the batch';
comment on column etl.batches.policies is 'records changed by policies: without their NUL characters (nul_stripped), with the key of an earlier record of the source (duplicates); and the unknown members (unknown); null: none';

comment on table etl.failures is 'one row per file of the failed store; the authority on its state';
comment on column etl.failures.id is 'name of the file without its suffix';
comment on column etl.failures.run is 'run of the records';
comment on column etl.failures.created_at is 'start of the transaction that inserted the row';
comment on column etl.failures.batch is 'offset of the batch of the records';
comment on column etl.failures.kind is 'rejected: the records cannot load as they are; failed: they could not load although their data may be correct';
comment on column etl.failures.attempts is 'number of attempts to load its records';
comment on column etl.failures.parent is 'failure whose replay left these records';
comment on column etl.failures.note is 'reason of the operator who discarded it';
comment on column etl.failures.sha256 is 'digest of the .ndjson file as it was written';
comment on column etl.failures.message is 'description of the fault, without any value of the data';

comment on column etl.faults.table_name is 'table of the faulty value, if known';
comment on column etl.faults.column_name is 'column of the faulty value, if known';
comment on column etl.faults.reason is 'description of the fault, without any value of the data';
comment on column etl.faults.first_record is 'number in the source of the first of these records, from 1';
comment on column etl.faults.first_offset is 'byte of the decompressed source at which the first of these records begins';

comment on table etl.refreshes is 'one row per aggregate that was ever refreshed, written by the transaction of the refresh';
comment on column etl.refreshes.definition_hash is 'digest of the definition that computed it';
comment on column etl.refreshes.refreshed_at is 'start of the last refresh, even if it had nothing to do: the aggregate includes all facts committed before';
comment on column etl.refreshes.run is 'run that caused the last refresh that had something to do; if no run did, the newest finished run';
comment on column etl.refreshes.mode is 'full: all buckets were recomputed; incremental: only the buckets that changed';
comment on column etl.refreshes.buckets is 'buckets recomputed by the last refresh that had something to do';
comment on column etl.refreshes.seconds is 'duration of the refresh';
comment on column etl.refreshes.facts_through is 'end of the newest run of its datasets that the aggregate includes';
comment on column etl.refreshes.newest_event_at is 'newest time in its facts, from the column that its head names';

comment on table etl.aggregates is 'one row per installed aggregate; after its deletion, changes of its facts are no longer noted for it';
comment on column etl.aggregates.grain is 'meaning of one row of the aggregate';
comment on column etl.aggregates.datasets is 'datasets that load the facts of the aggregate';

comment on column etl.watches.fact is 'table whose changes the triggers note';
comment on column etl.watches.noted is 'expression that is noted of a changed row: a day or an hour, or a key where via_table is set; empty: only the change';
comment on column etl.watches.via_table is 'table whose rows with that key give the days or hours';
comment on column etl.watches.via_column is 'column of that table with the key';
comment on column etl.watches.via_day is 'expression for the day or the hour of a row of that table';

comment on table etl.touched is 'one row per statement that changed a fact, and per noted expression; inserted by the transaction of the statement';
comment on column etl.touched.fact is 'table that changed';
comment on column etl.touched.noted is 'noted expression, as in etl.watches; null: the table was truncated';
comment on column etl.touched.days is 'days of the changed rows, where a day is noted';
comment on column etl.touched.hours is 'hours (UTC) of the changed rows, where an hour is noted';
comment on column etl.touched.keys is 'keys of the changed rows, where a key is noted';

comment on table etl.pending is 'buckets that the next refresh of their aggregate recomputes; a bucket may be listed more than once';
comment on column etl.pending.aggregate is 'aggregate of the bucket';

comment on view analytics.freshness is 'One row per aggregate: which facts it includes, and what is pending';
comment on column analytics.freshness.refreshed_at is 'start of the last refresh, even if it had nothing to do: the aggregate includes all facts committed before';
comment on column analytics.freshness.run is 'run that caused the last refresh that had something to do; if no run did, the newest finished run';
comment on column analytics.freshness.facts_through is 'end of the newest run of its datasets that the aggregate includes: complete to this instant';
comment on column analytics.freshness.newest_event_at is 'newest time in its facts, such as the creation of a shipment';
comment on column analytics.freshness.buckets is 'buckets recomputed by the last refresh that had something to do';
comment on column analytics.freshness.seconds is 'duration of that refresh';
comment on column analytics.freshness.mode is 'full: all buckets were recomputed; incremental: only the buckets that changed';
comment on column analytics.freshness.pending_buckets is 'buckets that the next refresh recomputes; 0: the aggregate equals its facts; all buckets, and the buckets of a noted key, count as one';
comment on column analytics.freshness.rejected_pending is 'records of its datasets that are pending in the failed store';
