-- name: datasets
-- Return for each dataset how many of its records are pending in the failed store, and when a load last finished.
select
    r.dataset,
    coalesce(sum(p.pending), 0)::bigint as pending,
    extract(epoch from max(r.finished_at) filter (
        where (not r.is_atomic or r.published_at is not null) and r.undone_at is null
    ))::double precision as finished_at
from etl.runs r
cross join lateral (
    select sum(count_records) as pending from etl.failures where run = r.run and state = 'pending'
) p
group by r.dataset;

-- name: aggregates
-- Return for each aggregate when it was last refreshed, and how many buckets are pending.
select aggregate, extract(epoch from refreshed_at)::double precision, pending_buckets from analytics.freshness;
