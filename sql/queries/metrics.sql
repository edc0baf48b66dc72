-- name: datasets
-- Tell of each dataset how many of its records wait in the failed store, and when a load last brought all of a source.
select
    r.dataset,
    coalesce(sum(p.pending), 0)::bigint as pending,
    extract(epoch from max(r.finished_at) filter (where not r.is_atomic or r.published_at is not null))::double precision
        as finished_at
from etl.runs r
cross join lateral (
    select sum(count_records) as pending from etl.failures where run = r.run and state = 'pending'
) p
group by r.dataset;

-- name: aggregates
-- Tell of each aggregate when it was refreshed, and how many buckets wait for it.
select aggregate, extract(epoch from refreshed_at)::double precision, pending_buckets from analytics.freshness;
