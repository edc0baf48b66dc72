-- name: anchored_runs
-- Find the runs of a dataset that are anchored at a mark with one of these hashes, with the marks beside it, and whether
-- a row with further marks follows.
select
    wanted.place, found.run, r.superseded_by is null as is_live, found.hashes, found.places,
    not exists (
        select from etl.marks later where later.run = found.run and later.last_record > found.last_record
    ) as is_last
from unnest(%(hashes)s::bigint[]) with ordinality as wanted (hash, place)
cross join lateral (
    select run, last_record, hashes, places from etl.marks where anchor = wanted.hash
    offset 0 -- one search in the index for each hash
) found
cross join lateral (
    select superseded_by from etl.runs where number = found.run and dataset = %(dataset)s
    offset 0 -- and for each run: without statistics, all runs of the dataset would be read
) r
order by wanted.place, found.run;

-- name: run_after
-- Find a run of a dataset that has a mark with this hash and more records, and is anchored at the mark after it.
select m.run
from etl.marks m
join etl.runs r on r.number = m.run
where m.parent = %(hash)s and m.last_record > %(records)s and r.superseded_by is null and r.dataset = %(dataset)s
limit 1;

-- name: marks_after
-- List some rows of marks of a run, from the first one that has a mark after so many records.
select hashes, places from etl.marks where run = %(run)s and last_record > %(records)s order by last_record limit %(most)s;

-- name: last_marks
-- Return the last row of marks of a run.
select hashes, places from etl.marks where run = %(run)s order by last_record desc limit 1;

-- name: add_marks
-- Add a row of marks of a run.
insert into etl.separate_marks (run, last_record, anchor, parent, hashes, places)
values (%(run)s, %(last_record)s, %(anchor)s, %(parent)s, %(hashes)s::bigint[], %(places)s)
on conflict (run, last_record) do nothing;

-- name: first_batches
-- List where the first batches of the runs without marks are in their sources.
select distinct "offset", "offset" + bytes from etl.first_batches where dataset = %(dataset)s;

-- name: runs_of_first_batches
-- Find the runs without marks whose first batch has one of these hashes.
select f.run, f.hash
from etl.first_batches f
join etl.runs r on r.number = f.run
where f.dataset = %(dataset)s and f.hash = any(%(hashes)s) and r.superseded_by is null;

-- name: forget_first_batch
-- Note that a run has marks now.
delete from etl.first_batches where run = %(run)s;
