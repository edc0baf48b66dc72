-- name: backend
-- Return the process of the server that serves this connection now.
select pg_backend_pid();
