-- A run is found by one of its marks, its anchor, and no longer by each of them: the index is a tenth as large, and a
-- mark that many runs share is no longer slow to search.

drop index etl.marks_hashes_idx;
alter table etl.marks add column anchor bigint, add column parent bigint;

comment on column etl.marks.anchor is 'hash of the mark by which the run is found; null: by a mark of another row';
comment on column etl.marks.parent is 'hash of the mark before the anchor, at which 64 or more other runs are found; null: the anchor is the first mark';

-- At each mark the first 64 of the runs that are not found yet are found, and the others by a later mark of theirs. A
-- source is compared with the later marks of its runs only where the earlier ones are taken.
do $$
declare
    depth integer := 1;
begin
    create temporary table paths on commit drop as
    with firsts as (
        select run, last_record, hashes, row_number() over (partition by run order by last_record) as place,
            lag(hashes[cardinality(hashes)]) over (partition by run order by last_record) as before
        from etl.marks
    ), steps as (
        select firsts.run, firsts.last_record, each.hash,
            row_number() over (partition by firsts.run order by firsts.place, each.place) as level
        from firsts
        cross join lateral unnest(firsts.hashes) with ordinality as each (hash, place)
        where firsts.place = 1 or (firsts.place = 2 and firsts.hashes[1] = firsts.before and each.place > 1)
    )
    select run, last_record, hash, level, max(level) over (partition by run) as most,
        lag(hash) over (partition by run order by level) as parent
    from steps;
    create index on paths (level);
    create temporary table anchors (run bigint primary key, last_record bigint, hash bigint, parent bigint) on commit drop;
    loop
        insert into anchors
        select run, last_record, hash, parent
        from (
            select paths.*, row_number() over (partition by paths.hash order by paths.run) as number
            from paths
            where paths.level = depth and not exists (select from anchors where anchors.run = paths.run)
        ) as steps
        where number <= 64 or steps.level = steps.most;
        depth := depth + 1;
        exit when not exists (select from paths where paths.level = depth);
    end loop;
    update etl.marks
    set anchor = anchors.hash, parent = anchors.parent
    from anchors
    where marks.run = anchors.run and marks.last_record = anchors.last_record;
end;
$$;

create index marks_anchor_idx on etl.marks (anchor) where anchor is not null;
create index marks_parent_idx on etl.marks (parent, last_record) where parent is not null;
