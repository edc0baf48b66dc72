-- name: backend
-- Tell which process of the server works for this connection now.
select pg_backend_pid();
