#!/bin/sh
# Installs what the tests need, where it is missing: the peers, what compresses
# the corpus, what makes the race detector work, and what reads manual pages and
# units. Daemons are started by the tests alone, so installing them starts
# nothing. With "bench", installs what the benchmarks need besides: more peers.
set -eu

packages="docker-registry skopeo umoci buildah containerd docker.io podman mmdebstrap fuse3 attr libcap2-bin gcc libc6-dev pigz zstd python3-minimal mount mandoc systemd fuse-overlayfs"
case "${1-}" in
"") ;;
bench) packages="$packages libdeflate-tools isal git sqlite3" ;;
*) echo "usage: $0 [bench]" >&2; exit 3 ;;
esac

missing=
for p in $packages; do
	dpkg-query --show --showformat='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done

# The images are made with this machine's package lists, so they must be there.
if [ -n "$missing" ] || ! apt-get indextargets 'Created-By: Packages' 'Origin: Debian' | grep -q .; then
	apt-get -q update
fi
[ -n "$missing" ] || exit 0

policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
# shellcheck disable=SC2086 # a list of words
DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $missing
