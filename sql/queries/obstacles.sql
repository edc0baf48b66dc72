-- name: facts_of_table
-- Return what decides whether a table can be loaded: its kind, whether a view takes rows by a trigger, whether policies
-- apply to this user, the columns whose identity the server always makes itself, and the rights that the user lacks.
select
    format('%%I.%%I', n.nspname, c.relname) as name,
    c.relkind::text as kind,
    exists (
        -- a trigger for each row (1), for insert (4), instead of (64)
        select from pg_trigger t where t.tgrelid = c.oid and t.tgtype & 69 = 69
    ) as takes_rows,
    row_security_active(c.oid) as has_policies,
    array(
        select a.attname::text
        from pg_attribute a
        where a.attrelid = c.oid and a.attidentity = 'a' and not a.attisdropped
        order by a.attnum
    ) as identity_always,
    array(
        select privilege
        from unnest(array['select', 'insert', 'update', 'delete']) as privilege
        where not has_table_privilege(c.oid, privilege)
    ) as missing_rights,
    current_user::text as user_name
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.oid = to_regclass(%(table)s);

-- name: publishes_changes
-- Tell whether a publication publishes updates or deletes; mostly there is none, and then nobody asks for its tables.
select exists (select from pg_publication where pubupdate or pubdelete) as publishes;

-- name: unidentified
-- List the tables (or the partitions of them) that a publication publishes updates or deletes of, but that have no
-- replica identity: the server refuses each update and delete of their rows. `schemas` adds all tables of schemas.
with wanted as (
    select to_regclass(name)::oid as relation from unnest(%(tables)s::text[]) as name
    union
    select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = any(%(schemas)s::text[])
),
leaves as (
    select relation from wanted
    union
    select tree.relid from wanted cross join lateral pg_partition_tree(wanted.relation) as tree
),
bare as (
    select c.oid, c.relnamespace, n.nspname, c.relname
    from leaves
    join pg_class c on c.oid = leaves.relation
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and c.relpersistence = 'p'
        and c.relreplident <> 'f'
        and not exists (
            select from pg_index i
            where i.indrelid = c.oid and i.indisvalid
                and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident end
        )
)
select
    format('%%I.%%I', bare.nspname, bare.relname) as name,
    array_agg(distinct p.pubname::text order by p.pubname::text) as publications
from bare
cross join lateral (
    select bare.oid as relid
    union
    select ancestors.relid from pg_partition_ancestors(bare.oid) as ancestors
) as published
join pg_class c on c.oid = published.relid
join pg_publication p on p.pubupdate or p.pubdelete
where p.puballtables
    or exists (select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = c.oid)
    or exists (select from pg_publication_namespace s where s.pnpubid = p.oid and s.pnnspid = c.relnamespace)
group by 1
order by 1;

-- name: filtered
-- List the tables that a publication publishes updates or deletes of by a filter of rows or a list of columns.
select format('%%I.%%I', n.nspname, c.relname) as name, array_agg(distinct p.pubname::text order by p.pubname::text)
from unnest(%(tables)s::text[]) as wanted
join pg_class c on c.oid = to_regclass(wanted)
join pg_namespace n on n.oid = c.relnamespace
join pg_publication_rel r on r.prrelid = c.oid and (r.prqual is not null or r.prattrs is not null)
join pg_publication p on p.oid = r.prpubid and (p.pubupdate or p.pubdelete)
group by 1
order by 1;
