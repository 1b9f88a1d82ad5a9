#!/bin/sh
# Build the image `cpu` without a container engine or a registry, on a base made here by debootstrap, and run a stage inside it.
# Needs root, buildah, debootstrap and a package index. What pip needs besides (a mirror, a folder of wheels) goes into BUILD_OPTIONS:
#   TORCH_INDEX= BUILD_OPTIONS="--volume /wheels:/wheels:ro --env PIP_FIND_LINKS=/wheels" docker/image-check.sh
set -eu
cd "$(dirname "$0")/.."
SCRATCH=${SCRATCH:-$(mktemp -d)}
BASE=localhost/python:3.11-slim-bookworm
IMAGE=localhost/attar:cpu
# chroot: no namespaces beyond the file system, so that it works inside a container too
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
buildah() { command buildah --root "$SCRATCH/storage" --runroot "$SCRATCH/run" "$@"; }
say() { echo "image-check: $*"; }

mkdir -p "$SCRATCH"
if ! buildah images "$BASE" > /dev/null 2>&1; then
    say "a stand-in for the Python base: Debian 12 with its python3 and venv"
    debootstrap --variant=minbase --include=python3,python3-venv,libpython3-dev,ca-certificates bookworm "$SCRATCH/base" > "$SCRATCH/debootstrap.log"
    container=$(buildah from scratch)
    buildah add "$container" "$SCRATCH/base" / > /dev/null
    buildah commit --rm "$container" "$BASE" > /dev/null
    rm -rf "$SCRATCH/base"
fi

say "building the target cpu"
# shellcheck disable=SC2086 # the options are words
buildah bud --pull-never --format docker -f docker/Dockerfile --target cpu --build-arg BASE_IMAGE="$BASE" \
    --build-arg TORCH_INDEX="${TORCH_INDEX-https://download.pytorch.org/whl/cpu}" \
    --build-arg REVISION="$(git rev-parse HEAD)" ${BUILD_OPTIONS:-} -t "$IMAGE" . > "$SCRATCH/build.log" 2>&1 \
    || { tail -30 "$SCRATCH/build.log"; exit 1; }

say "labels, user and process 1:"
buildah inspect --type image --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Labels}}' "$IMAGE"

container=$(buildah from --pull-never "$IMAGE")
inside() { buildah run --user 10001:10001 "$container" -- "$@"; }
say "no build tools, a user that is not root, an SBOM:"
inside sh -c 'for tool in gcc cc g++ make ld as; do if command -v $tool; then echo "found $tool"; exit 1; fi; done; id; ls -l /venv/sbom.cdx.json'
inside python -c 'import json; found = json.load(open("/venv/sbom.cdx.json"))["components"]; print(len(found), "components"); assert {"torch", "attar"} <= {one["name"] for one in found}'
say "a stage inside, through the entry point:"
inside /venv/bin/dumb-init -- /bin/sh /entrypoint.sh attar run tiny --until pruned
inside sh -c 'for manifest in /data/store/prune/*/manifest.json; do echo "$manifest"; done; test -s "$manifest"'
buildah rm "$container" > /dev/null
say "done"
