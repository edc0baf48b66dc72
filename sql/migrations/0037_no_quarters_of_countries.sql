-- A tenth of each refresh went to percentiles of whole quarters, which the facts give for any group when they are needed.
-- Where other objects need such a table, it stays, not refreshed.
delete from etl.refreshes where aggregate in ('country_quarters', 'milestone_quarters');
delete from etl.aggregates where aggregate in ('country_quarters', 'milestone_quarters');
do $drop$
declare
    name text;
begin
    foreach name in array array['country_quarters', 'milestone_quarters'] loop
        begin
            execute format('drop table if exists analytics.%I', name);
        exception when dependent_objects_still_exist then
            raise warning 'analytics.% stays, because other objects need it; it is not refreshed any more', name;
        end;
    end loop;
end;
$drop$;
