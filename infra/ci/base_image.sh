#!/bin/sh
# Make the Python base image that the container tests build on, where no image registry can be reached: Debian's own
# Python, from the package mirror that this machine's apt is set up with.
#
# Usage: base_image.sh TAG (root; buildah finds its storage by CONTAINERS_STORAGE_CONF)
set -eu
tag=${1:?usage: base_image.sh TAG}

if buildah inspect --type image "$tag" >/dev/null 2>&1; then
    exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The suites and mirrors are this machine's own, so the image gets the same Debian release. A machine's mirror address
# does not belong in an image: a hook removes it.
debian_sources() {
    # shellcheck disable=SC2016  # $(…) here is apt's, not the shell's
    apt-get indextargets --format 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian'
}
# apt does not know whose packages they are before it has fetched their lists.
[ -n "$(debian_sources)" ] || apt-get update -qq
debian_sources >"$scratch/sources.list"
if [ ! -s "$scratch/sources.list" ]; then
    echo "base_image.sh: apt knows no packages of Debian's here" >&2
    exit 1
fi

# shellcheck disable=SC1091,SC2016  # a file of the machine's; the hooks expand $1 themselves
mmdebstrap --quiet --variant=minbase \
    --include=python3,python3-pip,python3-venv,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/resolv.conf' \
    --customize-hook='rm -f "$1"/usr/lib/python3.*/EXTERNALLY-MANAGED' \
    --customize-hook='ln -s /usr/bin/python3 "$1"/usr/local/bin/python' \
    "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$scratch/rootfs.tar" "$scratch/sources.list"

container=$(buildah from scratch)
buildah add --quiet "$container" "$scratch/rootfs.tar" / >/dev/null
buildah config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
buildah commit --quiet --rm "$container" "$tag" >/dev/null
