-- name: runs_of_marks
-- Find the runs of a dataset whose source has a mark with each of these hashes; at most so many for each of them.
select wanted.place, found.run
from unnest(%(hashes)s::bigint[]) with ordinality as wanted (hash, place)
cross join lateral (
    select m.run
    from etl.marks m
    join etl.runs r on r.number = m.run
    where m.hashes @> array[wanted.hash] and r.superseded_by is null and r.dataset = %(dataset)s
    limit %(most)s
) found
order by wanted.place, found.run;

-- name: runs_that_end
-- Find the runs of a dataset with one of these hashes that may have no further mark, or of which marks are missing.
select wanted.place, found.run
from unnest(%(hashes)s::bigint[]) with ordinality as wanted (hash, place)
cross join lateral (
    select m.run
    from etl.marks m
    join etl.runs r on r.number = m.run
    where m.hashes @> array[wanted.hash]
        and (m.hashes[cardinality(m.hashes)] = wanted.hash or r.finished_at is null) and r.superseded_by is null and r.dataset = %(dataset)s
    limit %(most)s
) found
order by wanted.place, found.run;

-- name: marks_after
-- List some rows of marks of a run, from the first one that has a mark after so many records.
select hashes, places from etl.marks where run = %(run)s and last_record > %(records)s order by last_record limit %(most)s;

-- name: last_marks
-- Return the last row of marks of a run.
select hashes, places from etl.marks where run = %(run)s order by last_record desc limit 1;

-- name: add_marks
-- Add a row of marks of a run.
insert into etl.marks (run, last_record, hashes, places)
values (%(run)s, %(last_record)s, %(hashes)s::bigint[], %(places)s)
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
