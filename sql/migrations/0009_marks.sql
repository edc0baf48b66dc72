-- A source is known by the marks of its records, and no longer by a digest of its first bytes.

alter table etl.runs
    add column superseded_by bigint,
    add column is_within boolean not null default false;

comment on column etl.runs.superseded_by is 'number of the run that took its place: a replace, or a forced run whose source holds all its records; null: none';
comment on column etl.runs.is_within is 'true when its source may be a part of the source of a longer run, and was loaded nevertheless';

-- A replace removed the rows of the runs before it; a forced run took the place of an unfinished atomic run.
update etl.runs r
set superseded_by = later.number
from (
    select distinct on (r.number) r.number as earlier, l.number
    from etl.runs r
    join etl.runs l on l.dataset = r.dataset and l.number > r.number and (
        (l.mode = 'replace' and l.published_at is not null)
        or (r.is_atomic and r.published_at is null and l.is_forced and l.head_sha256 = r.head_sha256)
    )
    order by r.number, l.number desc
) later
where later.earlier = r.number;

create table etl.marks (
    run bigint not null references etl.runs (number) on delete cascade,
    last_record bigint not null,
    hashes bigint[] not null,
    places bytea not null,
    primary key (run, last_record)
);

-- Without fastupdate: each search would read the list of what is not sorted in yet.
create index marks_hashes_idx on etl.marks using gin (hashes) with (fastupdate = off);

comment on table etl.marks is 'marks of the source of a run: after so many of its records, which end at this byte, the hash of all bytes is this';
comment on column etl.marks.run is 'number of the run';
comment on column etl.marks.last_record is 'number of records at the last mark of the row; a row that does not begin with the last mark of the row before comes after batches that are missing';
comment on column etl.marks.hashes is 'for each mark the xxh3_64 of the source from the beginning of its first record, combined with that of the name of the dataset';
comment on column etl.marks.places is 'for each mark its records and its byte, as the differences from the mark before it in the row: unsigned LEB128';

-- The runs of now have no marks: the first batch of each tells which sources may be theirs.
create table etl.first_batches (
    run bigint primary key references etl.runs (number) on delete cascade,
    dataset text not null,
    "offset" bigint not null,
    bytes integer not null,
    hash bytea not null
);

insert into etl.first_batches
select r.number, r.dataset, b."offset", b.bytes, b.hash
from etl.runs r
join etl.batches b on b.run = r.run and b.first_record = 1;

create index first_batches_hash_idx on etl.first_batches (dataset, hash);

comment on table etl.first_batches is 'first batches of the runs that have no marks, because an earlier version has loaded them';
comment on column etl.first_batches.run is 'number of the run';
comment on column etl.first_batches.dataset is 'name of the dataset definition';
comment on column etl.first_batches."offset" is 'byte of the decompressed source at which the batch begins';
comment on column etl.first_batches.bytes is 'length of the batch in the decompressed source, in bytes';
comment on column etl.first_batches.hash is 'xxh3_128 of these bytes';

drop index etl.runs_source_idx;
alter table etl.runs drop column head_sha256, drop column head_bytes;
create index runs_dataset_idx on etl.runs (dataset);
