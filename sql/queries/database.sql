-- name: lift_limits
-- Let no time limit end the next statements. Nothing, and no row, where a pooler may lend the session to others.
-- The settings that are compared with null are not in every version.
select
    set_config('statement_timeout', '0', false),
    set_config('idle_session_timeout', '0', false),
    set_config('idle_in_transaction_session_timeout', '0', false),
    case when current_setting('transaction_timeout', true) is not null
        then set_config('transaction_timeout', '0', false) end
where %(backend)s in (pg_backend_pid(), 0);

-- name: pin_session
-- Give statements and values the same meaning in every session, whatever its role and its database set, and notice a
-- lost connection soon; return the process. A wait for a lock ends by the watch. Temporary tables come last in the path, and no schema of a role hides the functions of the server.
-- The settings that are compared with null are not in every version.
select
    pg_backend_pid() as backend,
    set_config('lock_timeout', '0', false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('default_transaction_read_only', 'off', false),
    set_config('default_transaction_deferrable', 'off', false),
    set_config('row_security', %(row_security)s, false),
    set_config('search_path', 'pg_catalog, public, pg_temp', false),
    set_config('standard_conforming_strings', 'on', false),
    set_config('backslash_quote', 'safe_encoding', false),
    set_config('datestyle', 'ISO,YMD', false),
    set_config('intervalstyle', 'postgres', false),
    set_config('timezone', 'UTC', false),
    set_config('timezone_abbreviations', 'Default', false),
    set_config('bytea_output', 'hex', false),
    set_config('extra_float_digits', '1', false),
    set_config('array_nulls', 'on', false),
    set_config('xmlbinary', 'base64', false),
    set_config('xmloption', 'content', false),
    set_config('transform_null_equals', 'off', false),
    set_config('quote_all_identifiers', 'off', false),
    set_config('gin_fuzzy_search_limit', '0', false),
    case when current_setting('restrict_nonsystem_relation_kind', true) is not null
        then set_config('restrict_nonsystem_relation_kind', '', false) end,
    case when has_parameter_privilege('session_replication_role', 'set')
        then set_config('session_replication_role', 'origin', false) end,
    set_config('plan_cache_mode', 'auto', false),
    set_config('client_min_messages', 'warning', false),
    set_config('exit_on_error', 'off', false),
    set_config('work_mem', '64MB', false),
    set_config('temp_buffers', '8MB', false),
    set_config('client_connection_check_interval', '1s', false),
    set_config('tcp_keepalives_idle', '10', false),
    set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false),
    set_config('tcp_user_timeout', '30000', false);

-- name: replication_role
-- Return the setting that disables triggers and foreign keys of the session if it is `replica`.
select current_setting('session_replication_role');

-- name: server_version
-- Return the server's version as a number.
select current_setting('server_version_num')::integer;

-- name: migrate_lock
-- Let one migration run at a time; the lock ends with the connection.
select pg_advisory_lock(hashtextextended('etl:migrate', 0));

-- name: migrate_unlock
-- Let the next migration run.
select pg_advisory_unlock(hashtextextended('etl:migrate', 0));

-- name: schema_version_exists
-- Return whether the database was ever migrated.
select to_regclass('etl.schema_version') is not null;

-- name: schema_version
-- Return the newest migration that ran.
select max(version_num) from etl.schema_version;

-- name: roles_present
-- List which of the group roles exist.
select rolname from pg_roles where rolname in ('etl_loader', 'etl_analyst');

-- name: make_staging_schema
-- Make the schema of the tables of unfinished runs, which a dump may have left out.
create schema if not exists etl_staging;
comment on schema etl_staging is 'rows of atomic runs that are not visible yet';

-- name: grant_ledger_to_etl_loader
-- Let loaders write the ledger, stage atomic runs and refresh aggregates, but not change etl.watches, which holds SQL.
grant usage on schema etl, etl_staging, logistics, analytics to etl_loader;
grant create on schema etl_staging to etl_loader;
revoke all on all tables in schema etl from etl_loader;
grant select on all tables in schema etl to etl_loader;
revoke all on etl.api_keys, etl.api_tokens from etl_loader;
grant insert, update on etl.runs, etl.attempts, etl.separate_batches, etl.failures, etl.faults, etl.refreshes,
    etl.group_attempts, etl.streams, etl.exports to etl_loader;
grant insert on etl.separate_marks, etl.known_sources, etl.seen, etl.event_keys to etl_loader;
grant delete on etl.touched, etl.first_batches, etl.seen, etl.event_keys to etl_loader;
grant execute on function etl.withdraw_batches, etl.make_partitions, etl.note_lost_partitions to etl_loader;
grant insert, delete on etl.pending to etl_loader;
grant usage on sequence etl.runs_number_seq to etl_loader;
grant select on analytics.shipment_states, analytics.name_spellings, analytics.warehouse_timezones,
    analytics.vehicle_transports, analytics.emission_factors to etl_loader;

-- name: grant_ledger_to_etl_analyst
-- Let analysts reach the schemas of facts and aggregates, and not the ledger.
grant usage on schema logistics, analytics to etl_analyst;
grant select on analytics.shipment_states, analytics.name_spellings, analytics.warehouse_timezones,
    analytics.vehicle_transports, analytics.emission_factors to etl_analyst;

-- name: reaches_schema
-- Return whether a role may use a schema.
select has_schema_privilege(%(role)s, %(schema)s, 'usage');

-- name: grant_schema
-- Let a role use the schema of a dataset.
grant usage on schema {schema} to {role};

-- name: grant_fact
-- Let loaders write a fact table and analysts read it.
grant select, insert, update, delete on {table} to {role};

-- name: grant_read
-- Let analysts read a table.
grant select on {table} to {role};

-- name: shows_more
-- Return whether row-level security hides rows of a table, and none of the table that was made beside it.
select of_table.relrowsecurity and not beside.relrowsecurity
from pg_class as of_table, pg_class as beside
where of_table.oid = to_regclass(%(table)s) and beside.oid = to_regclass(%(beside)s);

-- name: table_columns
-- List the columns and types of a table; a missing table has none.
select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull
from pg_attribute a
where a.attrelid = to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped;

-- name: takes_digests
-- Return whether a table of this database takes the digests of records.
select exists (
    select from pg_attribute a
    join pg_class c on c.oid = a.attrelid
    where a.attrelid = to_regclass(%(table)s) and c.relkind in ('r', 'p')
        and a.attname = %(digest)s and a.atttypid = 'bigint'::regtype and a.attgenerated = '' and not a.attisdropped
);

-- name: inventory
-- List the tables of these names that exist, their columns and their triggers: kind, table and name of each.
with wanted as (
    select c.oid as relation, format('%%I.%%I', n.nspname, c.relname) as name
    from unnest(%(schemas)s::text[], %(names)s::text[]) as given (schema, name)
    join pg_namespace n on n.nspname = given.schema
    join pg_class c on c.relnamespace = n.oid and c.relname = given.name
)
select 'table' as kind, relation, name from wanted
union all
select 'column', relation, format('%%s.%%I', name, a.attname)
from wanted
join pg_attribute a on a.attrelid = relation and a.attnum > 0 and not a.attisdropped
union all
select 'trigger', relation, format('%%I on %%s', t.tgname, name)
from wanted
join pg_trigger t on t.tgrelid = relation and not t.tgisinternal;

-- name: has_history
-- Return a row if one of these tables has a trigger that keeps its versions.
select tgname
from pg_trigger
where tgrelid in (select to_regclass(name) from unnest(%(tables)s::text[]) as name) and tgname ~ '^~?etl_history_'
limit 1;

-- name: without_identity
-- List the tables, with their partitions, that have neither a primary key nor another replica identity.
with wanted as (
    select to_regclass(name)::oid as relation from unnest(%(tables)s::text[]) as name
),
leaves as (
    select relation from wanted
    union
    select tree.relid from wanted cross join lateral pg_partition_tree(wanted.relation) as tree
)
select n.nspname, c.relname
from leaves
join pg_class c on c.oid = leaves.relation
join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and c.relreplident = 'd'
    and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary);
-- name: aggregates_among
-- List those of these tables that are an aggregate, or the view of their freshness.
select owned.name
from (
    select 'analytics.' || aggregate from etl.aggregates
    union all
    select 'analytics.freshness'
) as owned (name)
where owned.name = any(%(tables)s::text[])
order by owned.name;

-- name: computed_columns
-- List the columns whose values the server computes; a load cannot write to them.
select attname
from pg_attribute
where attrelid = to_regclass(%(table)s) and attnum > 0 and not attisdropped and attgenerated <> '';

-- name: limits
-- List the limits that tables check, for each column; a limit that is not enforced, or not valid, has another text.
select
    named.name,
    a.attname,
    array_remove(array_agg(pg_get_constraintdef(c.oid)), null)
    || case when a.attnotnull then array['not null'] else '{}' end
from unnest(%(tables)s::text[]) as named (name)
join pg_attribute a on a.attrelid = to_regclass(named.name) and a.attnum > 0 and not a.attisdropped
left join pg_constraint c on c.conrelid = a.attrelid and c.contype = 'c' and c.conkey = array[a.attnum]
group by named.name, a.attname, a.attnotnull;

-- name: has_key
-- Return whether a table has a unique index of exactly these columns, by which a merge finds the existing record.
select exists (
    select from pg_index i
    where i.indrelid = to_regclass(%(table)s)
        and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null
        and %(key)s::text[] <@ (
            select array_agg(a.attname::text) from unnest(i.indkey) as k join pg_attribute a
                on a.attrelid = i.indrelid and a.attnum = k
        )
        and i.indnkeyatts = cardinality(%(key)s::text[])
);

-- name: unfilled_columns
-- List the columns that refuse null, are not sent, and get no value from a default; a trigger may fill them.
with recursive domains (attnum, type_id) as (
    select a.attnum, a.atttypid
    from pg_attribute a
    where a.attrelid = to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
    union all
    select domains.attnum, t.typbasetype
    from domains join pg_type t on t.oid = domains.type_id
    where t.typbasetype <> 0
)
select a.attname
from pg_attribute a
where a.attrelid = to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
    and a.attname <> all(%(sent)s::text[]) and not a.atthasdef and a.attidentity = ''
    and (select t.typdefault is null from pg_type t where t.oid = a.atttypid)
    and (
        a.attnotnull
        or exists (
            select from domains join pg_type t on t.oid = domains.type_id
            where domains.attnum = a.attnum and t.typnotnull
        )
    )
    and not exists (
        select from pg_trigger g
        where g.tgrelid = a.attrelid and not g.tgisinternal and g.tgenabled in ('O', 'A')
            and g.tgtype & 1 = 1 and g.tgtype & 2 = 2 and g.tgtype & 4 = 4
    )
order by a.attnum;

-- name: lacks_partitions
-- Return whether a table is partitioned and has no partition yet.
select c.relkind = 'p' and not exists (select from pg_partition_tree(c.oid) p where p.isleaf)
from pg_class c
where c.oid = to_regclass(%(table)s);

-- name: partition_key
-- Return the columns by which a table and its partitions are partitioned, and whether one is partitioned by an
-- expression; no row for a table that is not partitioned.
select coalesce(array_agg(distinct a.attname::text) filter (where a.attnum is not null), '{}'), bool_or(k.number = 0)
from pg_partition_tree(to_regclass(%(table)s)) tree
join pg_partitioned_table p on p.partrelid = tree.relid
cross join unnest(p.partattrs::smallint[]) as k (number)
left join pg_attribute a on a.attrelid = p.partrelid and a.attnum = k.number and k.number > 0
having count(*) > 0;

-- name: has_primary_key
-- Return whether a table has a primary key.
select exists (select from pg_index where indrelid = to_regclass(%(table)s) and indisprimary);

-- name: other_collations
-- List the columns of a key whose collation in a table of child rows differs from that of the records, and this
-- collation; the default collation gives way to any other.
select child.attname, quote_ident(namespace.nspname) || '.' || quote_ident(collation_of_record.collname)
from pg_attribute record
join pg_attribute child on child.attrelid = to_regclass(%(child)s) and child.attname = record.attname
join pg_collation collation_of_record on collation_of_record.oid = record.attcollation
join pg_namespace namespace on namespace.oid = collation_of_record.collnamespace
where record.attrelid = to_regclass(%(table)s) and record.attname = any(%(key)s::text[])
    and record.attcollation <> child.attcollation
    and 'default'::regcollation not in (record.attcollation, child.attcollation);

-- name: may_load
-- Return whether the current user has every right on a table that a load needs.
select bool_and(has_table_privilege(to_regclass(%(table)s), privilege))
    and has_table_privilege('etl.separate_batches', 'insert')
    and has_table_privilege('etl.failures', 'insert')
from unnest(array['select', 'insert', 'update', 'delete']) as privilege;

-- name: hidden
-- List the tables in which a policy hides rows from the current user.
select name
from unnest(%(tables)s::text[]) as tables (name)
where case when to_regclass(name) is not null then row_security_active(to_regclass(name)) end
order by name;

-- name: create_ledger_schema
-- Make the schema of the ledger, in which the migrations record their version.
create schema if not exists etl;

-- name: defer_flush
-- Commit without waiting for the disk: a later commit, such as that of the end of the run, waits for all before it.
set local synchronous_commit = off;

-- name: hush_notices
-- Hide the notice "already exists, skipping" in this transaction.
set local client_min_messages = warning;

-- name: name_session
-- Name the work of this connection, as pg_stat_activity shows it.
select set_config('application_name', %(name)s, false);

-- name: version_of_tables
-- Return a text that changes with each change of the columns and the constraints of tables, and of their types.
select md5(string_agg(part.kind || part.oid || ' ' || part.number || ' ' || part.version, ',' order by part.*))
from unnest(%(tables)s::text[]) as named (name)
cross join lateral (
    select 'a' as kind, attrelid as oid, attnum as number, xmin::text as version
    from pg_attribute
    where attrelid = to_regclass(named.name) and attnum > 0
    union all
    select 'c', oid, 0, xmin::text
    from pg_constraint
    where conrelid = to_regclass(named.name)
    union all
    select 't', pg_type.oid, attnum, pg_type.xmin::text
    from pg_attribute
    join pg_type on pg_type.oid = atttypid
    where attrelid = to_regclass(named.name) and attnum > 0
) as part;

-- name: release_locks
-- Give up all locks that the session keeps beyond its transactions.
select pg_advisory_unlock_all();

-- name: drop_temporary_tables
-- Drop the temporary tables of a run, because the session serves another run.
discard temp;

-- name: see_one_snapshot
-- Let every statement of the transaction see the database as its first one does, with days that begin at midnight UTC.
set transaction isolation level repeatable read;
set local timezone = 'UTC';

-- name: lock_against_ddl
-- Wait until no statement changes these tables as such, and let none do so until the end of the transaction. It takes no
-- snapshot.
lock table {tables} in access share mode;

-- name: made_anew
-- List the tables that this transaction has locked, and that were made or rewritten after its snapshot. A table looks
-- empty then, unless VACUUM FULL or CLUSTER rewrote it. The functions see the catalogues of now, the query those of the snapshot.
select held.relation::regclass::text
from pg_locks as held
left join pg_class as seen on seen.oid = held.relation
where held.locktype = 'relation' and held.granted and held.pid = pg_backend_pid()
    and held.database = (select oid from pg_database where datname = current_database())
    and case when seen.oid is null
        then (pg_identify_object('pg_class'::regclass, held.relation, 0)).type in ('table', 'materialized view')
        else seen.relkind in ('r', 'm') and seen.relfilenode not in (0, pg_relation_filenode(seen.oid)) end;

-- name: skipping_tables
-- List which of these tables have a trigger before each row or a rule, also on a partition: either may skip rows.
with recursive family as (
    select t.number, t.name::regclass::oid as oid
    from unnest(%(tables)s::text[]) with ordinality as t (name, number)
    union
    select family.number, i.inhrelid
    from pg_inherits i
    join family on family.oid = i.inhparent
)
select distinct family.number::integer - 1
from family
where exists (
    select from pg_trigger t
    where t.tgrelid = family.oid and not t.tgisinternal and t.tgenabled <> 'D' and t.tgtype & 1 = 1 and t.tgtype & 66 > 0
        and t.tgfoid is distinct from to_regprocedure('etl.begin_version()')
)
or exists (
    select from pg_rewrite w where w.ev_class = family.oid and w.ev_enabled <> 'D' and w.ev_type in ('2', '3', '4')
);
