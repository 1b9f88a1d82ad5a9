#!/bin/sh
# Run once by the postgres image on an empty volume: a database and a user for each server, neither of which can reach the other's.
set -eu
for name in prefect mlflow; do
    password=$(cat "/run/secrets/${name}_db_password")
    psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        --set name="$name" --set password="$password" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
