#!/bin/sh
# Draw the passwords that docker/compose.yaml hands to its services. The folder is closed; the files are not, because in a container
# they are read by a user of another number.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
for name in postgres_password prefect_db_password mlflow_db_password mlflow_admin_password mlflow_session_key s3_access_key s3_secret_key; do
    [ -s "secrets/$name" ] || printf %s "$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')" > "secrets/$name"
done
[ -s secrets/prefect_auth ] || printf %s "attar:$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')" > secrets/prefect_auth
chmod 444 secrets/*
echo "docker/secrets: one file a password; Prefect's sign-in is $(pwd)/secrets/prefect_auth, MLflow's admin and mlflow_admin_password"
