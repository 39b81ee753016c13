#!/bin/sh
# Put kube-apiserver and etcd into .tools/kube, for the tests marked `kubernetes`: etcd is a package of Debian 12's, and
# kube-apiserver is built from its source package (1.20.2, all it needs inside), which takes about four minutes and 3 GB
# of disk while it runs. Does nothing where both are there. Needs root, for apt.
set -eu
cd "$(dirname "$0")/../.."
target=$PWD/.tools/kube

if [ -x "$target/kube-apiserver" ] && [ -x "$target/etcd" ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "kube_apiserver.sh: not root, so it cannot install the packages that the build needs" >&2
    exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

echo "installing etcd and Go from Debian" >&2
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends etcd-server golang-1.19-go \
    golang-github-modern-go-reflect2-dev rsync jq make dpkg-dev >/dev/null

# The machine's own mirror, asked for sources: in lists of our own, so apt's stay as they are.
# shellcheck disable=SC2016  # $(…) here is apt's, not the shell's
apt-get indextargets --format 'deb-src $(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' \
    >"$scratch/sources.list"
mkdir -p "$scratch/lists/partial" "$scratch/source"
lists="-o Dir::Etc::SourceList=$scratch/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$scratch/lists"
# shellcheck disable=SC2086  # options, one word each
apt-get $lists update -qq
# shellcheck disable=SC2086
(cd "$scratch/source" && apt-get $lists source -qq --only-source kubernetes >/dev/null)

cd "$scratch"/source/kubernetes-*/
# The reflect2 in its vendor directory crashes with Go 1.18 and newer; Debian's does not.
vendored=vendor/github.com/modern-go/reflect2
rm -f "$vendored"/*.go "$vendored"/*.s
cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.go /usr/share/gocode/src/github.com/modern-go/reflect2/*.s \
    "$vendored"
rm -f "$vendored"/*_test.go

echo "building kube-apiserver, which takes some minutes" >&2
mkdir -p .go/src/k8s.io home
ln -sfn ../../.. .go/src/k8s.io/kubernetes
PATH=/usr/lib/go-1.19/bin:$PATH GOPATH=$PWD/.go CGO_ENABLED=0 HOME=$PWD/home GOFLAGS='' GOPROXY=off \
    KUBE_GIT_VERSION=v1.20.2 KUBE_GIT_COMMIT=debian KUBE_GIT_TREE_STATE=clean \
    nice -n 19 make WHAT=cmd/kube-apiserver >"$scratch/build.log" 2>&1 || {
    tail -n 40 "$scratch/build.log" >&2
    exit 1
}

mkdir -p "$target"
cp _output/bin/kube-apiserver "$target/kube-apiserver"
cp "$(command -v etcd)" "$target/etcd"
