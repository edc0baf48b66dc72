-- name: columns
-- List the columns of tables in their order, with types, comments, and whether an index has them.
select
    wanted.name as "table",
    attname as name,
    format_type(atttypid, atttypmod) as type,
    coalesce(col_description(attrelid, attnum), '') as comment,
    exists (
        select from pg_index
        where indrelid = attrelid and indisvalid and attnum = any(indkey::smallint[])
    ) as is_indexed,
    relrowsecurity as has_policies
from unnest(%(tables)s::text[]) as wanted (name)
join pg_attribute on attrelid = to_regclass(wanted.name)
join pg_class on pg_class.oid = attrelid
where attnum > 0 and not attisdropped
order by wanted.name, attnum;

-- name: keys
-- List the columns of the primary keys of tables, in the order of each key.
select wanted.name, array_agg(attname::text order by place)
from unnest(%(tables)s::text[]) as wanted (name)
join pg_index on indrelid = to_regclass(wanted.name) and indisprimary and indisvalid
cross join unnest(indkey::smallint[]) with ordinality as key_column (attnum, place)
join pg_attribute on attrelid = indrelid and pg_attribute.attnum = key_column.attnum
group by wanted.name
order by wanted.name;

-- name: no_freshness
-- Replace the freshness for a table of facts, which has none.
(select 0::bigint as version, null::timestamptz as facts_through, {aggregate}::text as aggregate) as freshness

-- name: freshness
-- List how fresh the aggregates are, or how fresh one of them is.
select
    aggregate,
    version,
    to_json(refreshed_at) #>> '{}' as refreshed_at,
    to_json(facts_through) #>> '{}' as facts_through,
    to_json(newest_event_at) #>> '{}' as newest_event_at,
    to_json(future_event_at) #>> '{}' as future_event_at,
    rows,
    pending_buckets,
    rejected_pending
from analytics.freshness
where %(aggregate)s::text is null or aggregate = %(aggregate)s
order by aggregate;

-- name: similar_lanes
-- Return how fresh the features of lanes are, whether a lane is known and, from the same snapshot, the lanes most like it.
select
    freshness.version,
    to_json(freshness.facts_through) #>> '{}' as facts_through,
    freshness.pending_buckets,
    exists (
        select
        from analytics.lane_features
        where origin_country = %(lane)s::jsonb ->> 0
            and origin_city = %(lane)s::jsonb ->> 1
            and destination_country = %(lane)s::jsonb ->> 2
            and destination_city = %(lane)s::jsonb ->> 3
            and (%(quarter)s::date is null or quarter = date_trunc('quarter', %(quarter)s::date)::date)
    ) as is_known,
    found.quarter,
    found.origin_country,
    found.origin_city,
    found.destination_country,
    found.destination_city,
    found.distance::double precision,
    found.count_compared,
    found.count_shipments,
    found.count_transits,
    found.p50_transit_hours::double precision,
    found.p90_transit_hours::double precision,
    found.on_time_share::double precision,
    found.cost_per_kg::double precision,
    found.avg_promised_hours::double precision,
    found.asked_transits
from analytics.freshness
left join lateral analytics.similar_lanes(%(lane)s::jsonb, %(limit)s::integer, %(quarter)s::date) with ordinality as found
    on true
where freshness.aggregate = 'lane_features'
order by found.ordinality;

-- name: limit_session
-- Let a session of the service only read, see what the policies of its role allow, and end what takes too long.
select
    set_config('default_transaction_read_only', 'on', false),
    set_config('row_security', 'on', false),
    set_config('statement_timeout', %(statement_timeout)s, false),
    set_config('idle_in_transaction_session_timeout', '30s', false),
    set_config('lock_timeout', '5s', false),
    set_config('work_mem', '16MB', false);

-- name: page
-- Return how fresh an aggregate is and, from the same snapshot, the text of its page and, if there are more rows, the key
-- of the last one.
select
    freshness.version,
    to_json(freshness.facts_through) #>> '{{}}' as facts_through,
    convert_to(page.body, 'UTF8') as body,
    case when page.count_rows > {rows} then page.last_key end as last_key
from {freshness}
cross join (
    select
        string_agg(line, {separator}) filter (where number <= {rows}) as body,
        max(last_key) as last_key,
        count(*) as count_rows
    from (
        select
            {line} as line,
            case when row_number() over () = {rows} then json_build_array({key})::text end as last_key,
            row_number() over () as number
        from (
            select {columns} from {table} where {conditions} order by {order} limit {limit}
        ) as page
    ) as lines
) as page
where freshness.aggregate = {aggregate};

-- name: page_of_values
-- Return the rows of a page as values, each with the version and the reach of its snapshot, its number, and its key.
select
    freshness.version,
    to_json(freshness.facts_through) #>> '{{}}' as facts_through,
    page.number,
    page.last_key,
    {fields}
from {freshness}
left join (
    select
        page.*,
        row_number() over () as number,
        case when row_number() over () = {rows} then json_build_array({key})::text end as last_key
    from (
        select {columns} from {table} where {conditions} order by {order} limit {limit}
    ) as page
) as page on true
where freshness.aggregate = {aggregate}
order by page.number;

-- name: unfitting
-- List the places (from 0) of values that do not fit their type.
select (place - 1)::integer
from unnest(%(values)s::text[], %(types)s::text[]) with ordinality as given (value, type, place)
where not pg_input_is_valid(value, type)
order by place;

-- name: versions
-- Return the aggregates with their versions as one text, a line each.
select string_agg(aggregate || ' ' || version, E'\n' order by aggregate) from analytics.freshness;

-- name: alive
-- Return at once: the session is there.
select;

-- name: listen
-- Receive a notification when the rows of an aggregate changed, when a key was changed, and when a run has ended.
listen etl_versions;
listen etl_runs;
listen etl_api_keys;

-- name: ready
-- Return whether the database has what the service reads.
select exists (
    select from pg_attribute
    where attrelid = to_regclass('analytics.freshness') and attname = 'version' and not attisdropped
);
