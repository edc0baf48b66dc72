-- A table in use is also divided by the hash of its key. Its partitions are no months: etl.partitioned_facts has none.
alter table etl.divisions drop constraint divisions_fact_fkey;

drop function etl.copy_indexes(regclass, regclass, text, text[]);

-- Give an empty partitioned copy the keys, foreign keys and indexes of a table, under their names. A primary key without
-- each column by which the copy is divided becomes the key of the definition.
create function etl.copy_indexes(source regclass, target regclass, divided_by text[], key text[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $copy$
declare
    part record;
    numbers smallint[] := array(select attnum from pg_attribute where attrelid = source and attname = any (divided_by));
begin
    for part in
        select conname, pg_get_constraintdef(oid) as definition, contype, numbers <@ conkey as is_within
        from pg_constraint
        where conrelid = source and contype in ('p', 'u', 'f')
        order by contype = 'f', conname
    loop
        execute format(
            'alter table %s add constraint %I %s', target, part.conname,
            case
                when part.contype = 'p' and not part.is_within then format(
                    'primary key (%s)', (select string_agg(quote_ident(name), ', ' order by place) from unnest(key) with ordinality as names (name, place))
                )
                else part.definition
            end
        );
    end loop;
    for part in
        select relname, indisunique, pg_get_indexdef(indexrelid) as definition
        from pg_index
        join pg_class on pg_class.oid = indexrelid
        where indrelid = source and indisvalid and relname not like 'etl\_division\_%'
            and not exists (select from pg_constraint where conindid = indexrelid and conrelid = source and contype in ('p', 'u', 'x'))
        order by relname
    loop
        execute format(
            'create %sindex %I on %s%s',
            case when part.indisunique then 'unique ' else '' end,
            part.relname,
            target,
            substr(part.definition, strpos(part.definition, ' USING '))
        );
    end loop;
end;
$copy$;

comment on function etl.copy_indexes(regclass, regclass, text[], text[]) is 'Give a partitioned copy the keys, foreign keys and indexes of a table';
revoke all on function etl.copy_indexes(regclass, regclass, text[], text[]) from public;
