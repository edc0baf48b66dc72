-- Tables that are turned into partitioned ones while they are in use, by etl dataset partition.

create table etl.divisions (
    fact text primary key references etl.partitioned_facts,
    shape text not null,
    etl_run bigint not null default -9223372036854775808,
    etl_batch bigint not null default 0,
    etl_place integer not null default 0
);

comment on table etl.divisions is 'One row per table that etl dataset partition copies into partitions now';
comment on column etl.divisions.fact is 'schema and name of the table';
comment on column etl.divisions.shape is 'columns, constraints and indexes of the table when the copy was made';
comment on column etl.divisions.etl_run is 'the rows up to this lineage are copied: run';
comment on column etl.divisions.etl_batch is 'the rows up to this lineage are copied: batch';
comment on column etl.divisions.etl_place is 'the rows up to this lineage are copied: place';

create table etl.division_changes (
    fact text not null,
    etl_run bigint,
    etl_batch bigint,
    etl_place integer
);

alter table etl.division_changes replica identity full;
comment on table etl.division_changes is 'One row per changed lineage of a table that etl dataset partition copies: its rows are copied again';
comment on column etl.division_changes.fact is 'schema and name of the table';
comment on column etl.division_changes.etl_run is 'lineage of the changed rows: run; null: the table was truncated';
comment on column etl.division_changes.etl_batch is 'lineage of the changed rows: batch';
comment on column etl.division_changes.etl_place is 'lineage of the changed rows: place';

-- Lineage names rows in each table, with a key or without: the rows of a lineage are copied again as a whole. No unique
-- key: noting never waits.
create function etl.note_division_changes() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $note$
begin
    if tg_op = 'TRUNCATE' then
        insert into etl.division_changes (fact) values (tg_argv[0]);
        return null;
    end if;
    if tg_op in ('INSERT', 'UPDATE') then
        insert into etl.division_changes (fact, etl_run, etl_batch, etl_place)
        select distinct tg_argv[0], etl_run, etl_batch, etl_place from new_rows;
    end if;
    if tg_op in ('UPDATE', 'DELETE') then
        insert into etl.division_changes (fact, etl_run, etl_batch, etl_place)
        select distinct tg_argv[0], etl_run, etl_batch, etl_place from old_rows;
    end if;
    return null;
end;
$note$;

comment on function etl.note_division_changes() is 'Note the lineage of changed rows of a table that is copied into partitions';
revoke all on function etl.note_division_changes() from public;

-- Columns, constraints and indexes of a table: what changes in them while it is copied would be missing in the copy.
create function etl.shape_of(relation regclass) returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $shape$
    select md5(string_agg(part, e'\n' order by part))
    from (
        select format('%s %s %s', attname, format_type(atttypid, atttypmod), attnotnull)
        from pg_attribute
        where attrelid = relation and attnum > 0 and not attisdropped
        union all
        select format('%s %s', conname, pg_get_constraintdef(oid))
        from pg_constraint
        where conrelid = relation
        union all
        select pg_get_indexdef(indexrelid)
        from pg_index
        join pg_class on pg_class.oid = indexrelid
        where indrelid = relation and relname not like 'etl\_division\_%'
    ) as parts (part);
$shape$;

comment on function etl.shape_of(regclass) is 'Digest of the columns, constraints and indexes of a table';
revoke all on function etl.shape_of(regclass) from public;

-- Give an empty partitioned copy the keys, foreign keys and indexes of a table, under their names. A primary key without
-- the column by which the copy is divided becomes the key of the definition.
create function etl.copy_indexes(source regclass, target regclass, divided_by text, key text[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $copy$
declare
    part record;
    number smallint := (select attnum from pg_attribute where attrelid = source and attname = divided_by);
begin
    for part in
        select conname, pg_get_constraintdef(oid) as definition, contype, number = any (conkey) as is_within
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

comment on function etl.copy_indexes(regclass, regclass, text, text[]) is 'Give a partitioned copy the keys, foreign keys and indexes of a table';
revoke all on function etl.copy_indexes(regclass, regclass, text, text[]) from public;

-- Copy the next rows of a table in the order of their lineage, and those again that changed. All statements see one
-- snapshot (REPEATABLE READ, or a lock that keeps writers away), so after it the copy equals the table up to the place.
create function etl.copy_rows(of_fact text, source regclass, target regclass, most integer, out copied bigint, out changed bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
set client_min_messages = warning
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $rows$
declare
    columns text := (
        select string_agg(quote_ident(attname), ', ' order by attnum)
        from pg_attribute
        where attrelid = target and attnum > 0 and not attisdropped and attgenerated = ''
    );
    last etl.divisions%rowtype;
    upper record;
begin
    create temporary table if not exists etl_changes (etl_run bigint, etl_batch bigint, etl_place integer) on commit drop;
    truncate pg_temp.etl_changes;
    with taken as (
        delete from etl.division_changes where fact = of_fact returning etl_run, etl_batch, etl_place
    )
    insert into pg_temp.etl_changes select distinct etl_run, etl_batch, etl_place from taken;
    get diagnostics changed = row_count;
    if exists (select from pg_temp.etl_changes where etl_run is null) then
        execute format('truncate %s', target);
        update etl.divisions set etl_run = default, etl_batch = default, etl_place = default where fact = of_fact;
        truncate pg_temp.etl_changes;
    end if;
    select * into strict last from etl.divisions where fact = of_fact;
    delete from pg_temp.etl_changes
    where (etl_run, etl_batch, etl_place) > (last.etl_run, last.etl_batch, last.etl_place);
    if changed > 0 then
        analyze pg_temp.etl_changes;
        execute format(
            'delete from %s as copy using pg_temp.etl_changes as changes
            where copy.etl_run = changes.etl_run and copy.etl_batch = changes.etl_batch and copy.etl_place = changes.etl_place',
            target
        );
        execute format(
            'insert into %s (%s)
            select %s
            from pg_temp.etl_changes as changes
            join %s as held using (etl_run, etl_batch, etl_place)',
            target, columns, columns, source
        );
    end if;
    execute format(
        'select etl_run, etl_batch, etl_place from %s
        where (etl_run, etl_batch, etl_place) > ($1, $2, $3)
        order by etl_run, etl_batch, etl_place offset $4 - 1 limit 1',
        source
    ) into upper using last.etl_run, last.etl_batch, last.etl_place, most;
    if upper.etl_run is null then
        execute format(
            'select etl_run, etl_batch, etl_place from %s order by etl_run desc, etl_batch desc, etl_place desc limit 1', source
        ) into upper;
    end if;
    copied := 0;
    if (upper.etl_run, upper.etl_batch, upper.etl_place) > (last.etl_run, last.etl_batch, last.etl_place) then
        execute format(
            'insert into %s (%s)
            select %s from %s
            where (etl_run, etl_batch, etl_place) > ($1, $2, $3) and (etl_run, etl_batch, etl_place) <= ($4, $5, $6)
            order by etl_run, etl_batch, etl_place',
            target, columns, columns, source
        ) using last.etl_run, last.etl_batch, last.etl_place, upper.etl_run, upper.etl_batch, upper.etl_place;
        get diagnostics copied = row_count;
        update etl.divisions
        set etl_run = upper.etl_run, etl_batch = upper.etl_batch, etl_place = upper.etl_place
        where fact = of_fact;
    end if;
end;
$rows$;

comment on function etl.copy_rows(text, regclass, regclass, integer) is 'Copy the next rows of a table into its partitioned copy, and changed ones again; return how many';
revoke all on function etl.copy_rows(text, regclass, regclass, integer) from public;

-- Let a partitioned copy be used as its table is: owner, rights, row-level security, comments, replica identity.
create function etl.copy_rights(source regclass, target regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $rights$
declare
    statement text;
begin
    for statement in
        select format('alter table %s owner to %I', relid::regclass, pg_get_userbyid(relowner))
        from pg_class cross join lateral pg_partition_tree(target)
        where pg_class.oid = source and relowner <> (select relowner from pg_class where oid = target)
        union all
        select format('revoke all on %s from %s', target, grantee_name)
        from (
            select distinct case when grantee = 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
            from pg_class cross join lateral aclexplode(relacl)
            where pg_class.oid = target and grantee <> relowner
        ) as grantees (grantee_name)
        union all
        select format(
            'grant %s on %s to %s%s', privilege_type, target,
            case when grantee = 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end,
            case when is_grantable then ' with grant option' else '' end
        )
        from pg_class cross join lateral aclexplode(relacl)
        where pg_class.oid = source and grantee <> relowner
        union all
        select format(
            'grant %s (%I) on %s to %s%s', privilege_type, attname, target,
            case when grantee = 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end,
            case when is_grantable then ' with grant option' else '' end
        )
        from pg_attribute cross join lateral aclexplode(attacl)
        where attrelid = source and attnum > 0 and not attisdropped
        union all
        select format(
            'create policy %I on %s as %s for %s to %s%s%s',
            polname,
            target,
            case when polpermissive then 'permissive' else 'restrictive' end,
            case polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
            (
                select string_agg(case when role = 0 then 'public' else quote_ident(pg_get_userbyid(role)) end, ', ')
                from unnest(polroles) as role
            ),
            ' using (' || pg_get_expr(polqual, polrelid) || ')',
            ' with check (' || pg_get_expr(polwithcheck, polrelid) || ')'
        )
        from pg_policy
        where polrelid = source
        union all
        select format('alter table %s enable row level security', target) from pg_class where oid = source and relrowsecurity
        union all
        select format('alter table %s force row level security', target) from pg_class where oid = source and relforcerowsecurity
        union all
        select format('comment on table %s is %L', target, obj_description(source, 'pg_class'))
        where obj_description(source, 'pg_class') is not null
        union all
        select format('comment on constraint %I on %s is %L', conname, target, obj_description(oid, 'pg_constraint'))
        from pg_constraint
        where conrelid = source and contype in ('p', 'u', 'f') and obj_description(oid, 'pg_constraint') is not null
        union all
        select format('comment on policy %I on %s is %L', polname, target, obj_description(oid, 'pg_policy'))
        from pg_policy
        where polrelid = source and obj_description(oid, 'pg_policy') is not null
        union all
        select format('comment on index %I.%I is %L', target_space.nspname, pg_class.relname, obj_description(indexrelid, 'pg_class'))
        from pg_index
        join pg_class on pg_class.oid = indexrelid
        join pg_class as target_class on target_class.oid = target
        join pg_namespace as target_space on target_space.oid = target_class.relnamespace
        where indrelid = source and obj_description(indexrelid, 'pg_class') is not null
        union all
        select format('alter table %s replica identity full', relid::regclass)
        from pg_class cross join lateral pg_partition_tree(target)
        where pg_class.oid = source and relreplident = 'f'
    loop
        execute statement;
    end loop;
end;
$rights$;

comment on function etl.copy_rights(regclass, regclass) is 'Give a partitioned copy the owner, rights, policies, comments and replica identity of a table';
revoke all on function etl.copy_rights(regclass, regclass) from public;

-- Give a partitioned copy the triggers of a table, when its rows are complete.
create function etl.copy_triggers(source regclass, target regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $triggers$
declare
    part record;
begin
    for part in
        select
            tgname,
            replace(pg_get_triggerdef(oid), ' ON ' || source::text || ' ', ' ON ' || target::text || ' ') as definition,
            case tgenabled when 'D' then 'disable' when 'R' then 'enable replica' when 'A' then 'enable always' end as state,
            obj_description(oid, 'pg_trigger') as comment
        from pg_trigger
        where tgrelid = source and not tgisinternal and tgname not like '~etl\_division\_%'
        order by tgname
    loop
        execute part.definition;
        if part.state is not null then
            execute format('alter table %s %s trigger %I', target, part.state, part.tgname);
        end if;
        if part.comment is not null then
            execute format('comment on trigger %I on %s is %L', part.tgname, target, part.comment);
        end if;
    end loop;
end;
$triggers$;

comment on function etl.copy_triggers(regclass, regclass) is 'Give a partitioned copy the triggers of a table';
revoke all on function etl.copy_triggers(regclass, regclass) from public;

-- Let the partitioned copy take the place of its table, which the caller has locked, and its views read the copy. The
-- table goes to etl_staging with its indexes.
create function etl.take_place(of_fact text, source regclass, target regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set client_min_messages = warning
as $place$
declare
    space text := split_part(of_fact, '.', 1);
    name text := split_part(of_fact, '.', 2);
    statement text;
    views text[] := array(
        select format(
            'create or replace view %s%s as %s',
            pg_class.oid::regclass,
            ' with (' || array_to_string(reloptions, ', ') || ')',
            pg_get_viewdef(pg_class.oid)
        )
        from pg_class
        where pg_class.oid in (
            select ev_class
            from pg_depend
            join pg_rewrite on pg_rewrite.oid = pg_depend.objid
            where pg_depend.classid = 'pg_rewrite'::regclass and refclassid = 'pg_class'::regclass and refobjid = source
        )
    );
begin
    if (select shape <> etl.shape_of(source) from etl.divisions where fact = of_fact) then
        raise object_not_in_prerequisite_state;
    end if;
    perform etl.copy_rights(source, target);
    perform etl.copy_triggers(source, target);
    for statement in
        select format('drop trigger %I on %s', tgname, source)
        from pg_trigger
        where tgrelid = source and not tgisinternal and tgname like '~etl\_division\_%'
        union all
        select format('drop index %s', indexrelid::regclass)
        from pg_index
        join pg_class on pg_class.oid = indexrelid
        where indrelid = target and relname like 'etl\_division\_%'
    loop
        execute statement;
    end loop;
    execute format('alter table %s set schema etl_staging', source);
    execute format('alter table %s set schema %I', target, space);
    foreach statement in array views
    loop
        execute statement;
    end loop;
    update etl.divisions set shape = '' where fact = of_fact;
end;
$place$;

comment on function etl.take_place(text, regclass, regclass) is 'Let a partitioned copy take the place of its table';
revoke all on function etl.take_place(text, regclass, regclass) from public;

-- The table of a fact may be a plain one still, while its partitioned copy is filled: its partitions have their places
-- and names already.
create function etl.add_partitions(relation regclass, of_fact text, moments timestamp[]) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $add$
declare
    wanted etl.partitioned_facts%rowtype;
    lower_day date;
    upper_day date;
    partition text;
    schema_name text := split_part(of_fact, '.', 1);
    has_full_identity boolean := (select relreplident = 'f' from pg_class where oid = relation);
    made integer := 0;
begin
    select * into strict wanted from etl.partitioned_facts where partitioned_facts.fact = of_fact;
    perform etl.note_lost_partitions();
    for lower_day in
        select distinct date_trunc(wanted.every, moment)::date
        from unnest(moments) as moment
        -- A year out of this range is a fault of the data: no partition holds it.
        where moment >= '1900-01-01' and moment < '2200-01-01'
        order by 1
    loop
        continue when exists (select from etl.partitions where fact = of_fact and first_day = lower_day);
        -- One session makes partitions of a table at a time; loads and readers do not wait for it.
        execute format('lock table %s in share update exclusive mode', relation);
        continue when exists (select from etl.partitions where fact = of_fact and first_day = lower_day);
        begin
            upper_day := lower_day + ('1 ' || wanted.every)::interval;
            partition := left(split_part(of_fact, '.', 2), 50)
                || to_char(lower_day, case wanted.every when 'month' then '"_p"YYYYMM' else '"_p"YYYYMMDD' end);
            if to_regclass(format('%I.%I', schema_name, partition)) is not null then
                partition := partition || '_2';  -- The first one was detached by a person, who may need it.
            end if;
            execute format(
                'create table %I.%I (like %s including defaults including constraints including generated including storage)',
                schema_name, partition, relation
            );
            if has_full_identity then
                execute format('alter table %I.%I replica identity full', schema_name, partition);
            end if;
            execute format(
                'alter table %s attach partition %I.%I for values from (%L) to (%L)',
                relation, schema_name, partition, lower_day, upper_day
            );
            perform etl.watch_partition(
                to_regclass(format('%I.%I', schema_name, split_part(of_fact, '.', 2))),
                format('%I.%I', schema_name, partition)::regclass
            );
            insert into etl.partitions (fact, first_day, until_day, name) values (of_fact, lower_day, upper_day, partition);
            made := made + 1;
        exception when invalid_object_definition then
            null;  -- A partition that a person made holds some of these days.
        end;
    end loop;
    return made;
end;
$add$;

comment on function etl.add_partitions(regclass, text, timestamp[]) is 'Make the partitions of a listed fact that hold these moments (UTC), in this table';
revoke all on function etl.add_partitions(regclass, text, timestamp[]) from public;

-- A loader owns no table: this function makes partitions of the listed tables for it, and nothing else.
create or replace function etl.make_partitions(of_fact text, moments timestamp[]) returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $make$
declare
    relation regclass;
begin
    select pg_class.oid::regclass
    into relation
    from etl.partitioned_facts
    join pg_namespace on pg_namespace.nspname = split_part(fact, '.', 1)
    join pg_class on pg_class.relnamespace = pg_namespace.oid and pg_class.relname = split_part(fact, '.', 2)
    where fact = of_fact and pg_class.relkind = 'p';
    return case when relation is null then 0 else etl.add_partitions(relation, of_fact, moments) end;
end;
$make$;

comment on function etl.make_partitions(text, timestamp[]) is 'Make the partitions of a listed table that hold these moments (UTC), where they are missing; return how many were made';
revoke all on function etl.make_partitions(text, timestamp[]) from public;

alter table etl.partitions add column exported_to text;

comment on column etl.partitions.exported_to is 'place to which etl retention exports its rows before it removes it';

-- Where a superuser migrates, an event trigger calls it at once when a partition is dropped or detached.
create function etl.note_lost_at_once() returns event_trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $lost$
declare
    may_be_one boolean;
begin
    if tg_event = 'sql_drop' then
        may_be_one := exists (
            select
            from pg_event_trigger_dropped_objects()
            join etl.partitions on name = object_name and split_part(fact, '.', 1) = schema_name
            where object_type = 'table'
        );
    else
        may_be_one := exists (
            select
            from pg_event_trigger_ddl_commands() as command
            join pg_class on pg_class.oid = command.objid
            join pg_namespace on pg_namespace.oid = pg_class.relnamespace
            join etl.partitioned_facts on split_part(fact, '.', 1) = nspname and split_part(fact, '.', 2) = relname
            where command.classid = 'pg_class'::regclass
        );
    end if;
    if may_be_one then
        perform etl.note_lost_partitions();
    end if;
end;
$lost$;

comment on function etl.note_lost_at_once() is 'Make the aggregates pending at once whose facts lost a partition by hand';
revoke all on function etl.note_lost_at_once() from public;
