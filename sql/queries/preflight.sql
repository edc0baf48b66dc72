-- name: server_facts
-- Return facts about the server that would stop a load late: encoding, whether it accepts writes (loads override the default of
-- the role), the user, and the process that serves the connection.
select
    getdatabaseencoding() as encoding,
    pg_is_in_recovery() or current_setting('transaction_read_only')::boolean as is_read_only,
    exists (
        select from pg_settings where name = 'default_transaction_read_only' and reset_val = 'on'
    ) as is_read_only_by_default,
    current_user::text as user_name,
    current_database()::text as database_name,
    has_database_privilege(current_database(), 'temporary') as may_make_temporary,
    pg_backend_pid() as backend;

-- name: ledger_rights
-- List the rights on the ledger that the user lacks.
select needed.privilege || ' on ' || needed.relation
from (
    values
        ('insert', 'etl.runs'), ('update', 'etl.runs'), ('insert', 'etl.attempts'), ('update', 'etl.attempts'),
        ('insert', 'etl.separate_batches'), ('update', 'etl.separate_batches'), ('insert', 'etl.failures'), ('update', 'etl.failures'),
        ('insert', 'etl.separate_marks'), ('insert', 'etl.known_sources'), ('delete', 'etl.first_batches'),
        ('insert', 'etl.group_attempts'), ('update', 'etl.group_attempts')
) as needed (privilege, relation)
where not has_table_privilege(needed.relation, needed.privilege)
union all
select 'usage on sequence etl.runs_number_seq'
where not has_sequence_privilege('etl.runs_number_seq', 'usage')
union all
select 'create on schema etl_staging'
where not coalesce(has_schema_privilege(to_regnamespace('etl_staging'), 'create'), false);

-- name: settings
-- List the settings that can make loads slow or risky, as they are for this user: sizes in bytes, times in seconds, and
-- each as it is written.
select
    name,
    case
        when vartype = 'bool' then (setting = 'on')::integer
        when unit in ('8kB', 'kB', 'MB', 'ms', 's', 'min') then
            setting::numeric * case unit
                when '8kB' then 8192 when 'kB' then 1024 when 'MB' then 1048576
                when 'ms' then 0.001 when 's' then 1 when 'min' then 60
            end
    end::double precision,
    current_setting(name)
from pg_settings
where name in (
    'fsync', 'full_page_writes', 'autovacuum', 'max_wal_size', 'checkpoint_timeout', 'shared_buffers',
    'synchronous_commit'
)
order by name;

-- name: limit_comparison
-- End a comparison of an aggregate with its facts that takes long.
select set_config('statement_timeout', %(timeout)s, false);

-- name: end_comparison
-- Let statements take as long as the settings of the user allow.
reset statement_timeout;

-- name: room_for_connections
-- Return how many connections the user may still open, by the limits of the server, the database and the role.
select least(
    current_setting('max_connections')::integer
    - current_setting('superuser_reserved_connections')::integer
    - current_setting('reserved_connections')::integer
    - (select count(*) from pg_stat_activity where backend_type = 'client backend'),
    (
        select case when datconnlimit < 0 then 1000000 else datconnlimit end
            - (select count(*) from pg_stat_activity where datname = current_database())
        from pg_database where datname = current_database()
    ),
    (
        select case when rolconnlimit < 0 then 1000000 else rolconnlimit end
            - (select count(*) from pg_stat_activity where usename = current_user)
        from pg_roles where rolname = current_user
    )
)::integer;
