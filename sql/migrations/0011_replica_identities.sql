-- Tables without a primary key get a replica identity: a publication (logical replication) of all tables, or of the
-- schema etl or etl_staging, would refuse every update and delete of their rows.

do $$
declare
    bare regclass;
begin
    for bare in
        select c.oid
        from pg_class c
        where c.relnamespace in ('etl'::regnamespace, 'etl_staging'::regnamespace)
            and c.relkind = 'r' and c.relreplident = 'd'
            and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)
            and pg_has_role(c.relowner, 'usage')
    loop
        execute format('alter table %s replica identity full', bare);
    end loop;
end;
$$;
