#!/bin/sh
# Install what the tests marked `container` and `node` need, on Debian: buildah and podman for the image, Azurite for
# Azure's storage, the Serverless Framework's fork for serverless.yml, linters. Does nothing, quickly, where it is all
# there.
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

linters() {
    cmp -s infra/ci/lint.txt "$tools/lint/.installed" && return 0
    echo "installing linters into $tools/lint" >&2
    rm -rf "$tools/lint"
    .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --target "$tools/lint" \
        -r infra/ci/lint.txt
    cp infra/ci/lint.txt "$tools/lint/.installed"
}

apt_packages
node_programs
linters
