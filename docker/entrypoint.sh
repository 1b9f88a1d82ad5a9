#!/bin/sh
# Read secrets from files, say what is wrong with the container before anything starts, then become the command.
set -eu

for name in PREFECT_API_AUTH_STRING PREFECT_SERVER_API_AUTH_STRING PREFECT_SERVER_DATABASE_PASSWORD PGPASSWORD \
    MLFLOW_TRACKING_PASSWORD MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY \
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY HF_TOKEN; do
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ]; then
        if [ ! -r "$file" ]; then
            echo "attar: ${name}_FILE names $file, which user $(id -u) cannot read" >&2
            exit 78
        fi
        value=$(cat "$file")
        export "$name=$value"
        unset "${name}_FILE"
    fi
done

if [ ! -w "${ATTAR_HOME:-/data}" ]; then
    echo "attar: ${ATTAR_HOME:-/data} is not writable by user $(id -u): give the volume to it (chown 10001:10001)" >&2
    exit 78
fi
if [ "$(id -u)" = 0 ]; then
    echo "attar: warning: running as root; the image is made for user 10001" >&2
fi
exec "$@"
