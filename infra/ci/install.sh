#!/bin/sh
# Install what the tests marked `container`, `node` and `tfserving` need, on Debian: buildah and podman for the image,
# Azurite for Azure's storage, the Serverless Framework's fork for serverless.yml, TensorFlow Serving's client with the
# TensorFlow it comes with (1.5 GB), linters, what checks templates (800 MB). Does nothing, quickly, where it is all there.
#
# Needs `make setup` before it.
set -eu
cd "$(dirname "$0")/../.."
tools=.tools

apt_packages() {
    for program in buildah podman runc skopeo mmdebstrap; do
        command -v "$program" >/dev/null || missing="${missing:-} $program"
    done
    [ -n "${missing:-}" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "not root, so not installing$missing: the tests of the image will be skipped" >&2
        return 0
    fi
    echo "installing Debian packages:$missing" >&2
    apt-get update -qq
    # shellcheck disable=SC2086  # one word per package
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
}

node_programs() {
    if ! command -v npm >/dev/null; then
        echo "no npm here: the tests of Azure and of serverless.yml need Node 20.19 or newer and will be skipped" >&2
        return 0
    fi
    # A copy of the lock, made last, says that the installation is whole.
    cmp -s infra/ci/package-lock.json "$tools/node/.installed" && return 0
    echo "installing Node programs into $tools/node" >&2
    rm -rf "$tools/node"
    mkdir -p "$tools/node"
    cp infra/ci/package.json infra/ci/package-lock.json infra/ci/.npmrc "$tools/node"
    (cd "$tools/node" && npm ci --silent --ignore-scripts --no-fund --no-audit)
    cp infra/ci/package-lock.json "$tools/node/.installed"
}

# $1: a directory below $tools, and the lock below infra/ci that says what is in it. Installed as locked, no more: of
# the two TensorFlows that TensorFlow Serving's client would bring, the lock has the smaller.
python_packages() {
    cmp -s "infra/ci/$1.txt" "$tools/$1/.installed" && return 0
    echo "installing Python packages into $tools/$1" >&2
    rm -rf "${tools:?}/$1"
    .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --no-deps --target "$tools/$1" \
        -r "infra/ci/$1.txt"
    cp "infra/ci/$1.txt" "$tools/$1/.installed"
}

apt_packages
node_programs
python_packages lint
for name in kubernetes checkov sam cloud_run compose; do
    python_packages "$name"
done
python_packages tfserving
