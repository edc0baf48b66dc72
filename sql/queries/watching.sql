-- name: activity
-- Return what a session does: whether it waits for its client, whether it waits for a lock, and a text that changes
-- whenever it does something. Of the session of another role the last two are known only from its locks.
select
    coalesce(activity.wait_event_type = 'Client' or activity.state like 'idle%%', false),
    exists (select from pg_locks where pg_locks.pid = activity.pid and not granted),
    concat_ws(' ', activity.backend_start, activity.state_change, activity.query_start, progress.bytes_processed)
from pg_stat_activity as activity
left join pg_stat_progress_copy as progress on progress.pid = activity.pid
where activity.pid = %(backend)s;

-- name: holders
-- List the sessions for whose lock a session waits in the end: who they are, since when their transaction or session
-- lasts, and for how many seconds they have done nothing (null: they work). Process 0 is a prepared transaction.
with recursive blocking (pid) as (
    select unnest(pg_blocking_pids(%(backend)s))
    union
    select unnest(pg_blocking_pids(blocking.pid)) from blocking where blocking.pid <> 0
)
select
    blocking.pid,
    coalesce(activity.application_name, '') as application,
    to_char(coalesce(activity.xact_start, activity.backend_start), 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as since,
    coalesce(activity.state, 'unknown') as state,
    case
        when blocking.pid = 0 then 1000000
        when activity.state like 'idle%%' then extract(epoch from clock_timestamp() - activity.state_change)::integer
    end as idle_seconds
from blocking
left join pg_stat_activity as activity on activity.pid = blocking.pid
where blocking.pid = 0 or cardinality(pg_blocking_pids(blocking.pid)) = 0
order by blocking.pid;

-- name: terminate
-- End a session that waits for a client which cannot hear it, and with it the locks that it holds.
select pg_terminate_backend(%(backend)s);

-- name: cancel
-- Cancel the statement of a session that waits for a lock.
select pg_cancel_backend(%(backend)s);
