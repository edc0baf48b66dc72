-- The trigger that notes since when a table shows a version comes after the triggers of users, which may change the row.

do $rename$
declare
    found record;
begin
    for found in
        select tgrelid::regclass as table_name
        from pg_trigger
        where tgname = 'etl_history_began' and not tgisinternal and tgparentid = 0
    loop
        begin
            execute format('alter trigger etl_history_began on %s rename to "~etl_history_began"', found.table_name);
        exception when insufficient_privilege then
            raise warning 'a trigger of % keeps its name, because its owner is another: etl dataset create', found.table_name;
        end;
    end loop;
end;
$rename$;
