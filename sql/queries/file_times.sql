-- name: trusted_runs
-- Return the runs of sources of which the name, the size and the time are those of a file that was read to its end.
select wanted.place, r.number
from unnest(%(sources)s::text[], %(source_bytes)s::bigint[], %(times)s::bigint[]) with ordinality
    as wanted (source, source_bytes, time, place)
cross join lateral (
    select number from etl.runs
    where hashtextextended(runs.source, 0) = hashtextextended(wanted.source, 0) and source_time_ns = wanted.time
        and runs.source = wanted.source and runs.source_bytes = wanted.source_bytes
        and runs.dataset = %(dataset)s and superseded_by is null
    offset 0 -- one search in the index for each source
) as r;

-- name: note_times
-- Note the times of files that were read, and whose records are all those of a run with their name.
update etl.runs
set source_bytes = each.source_bytes, source_time_ns = each.time
from unnest(
    %(numbers)s::bigint[], %(sources)s::text[], %(source_bytes)s::bigint[], %(times)s::bigint[]
) as each (number, source, source_bytes, time)
where runs.number = each.number and runs.source = each.source
    and (runs.source_bytes, runs.source_time_ns) is distinct from (each.source_bytes, each.time);
