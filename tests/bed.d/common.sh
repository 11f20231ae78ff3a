# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by the scripts of this folder's parent: what they share.

cache=${LIVEDISK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livedisk}
# An ordinary user's PATH has no sbin, where mkfs and libvirtd live.
PATH=$PATH:/usr/sbin:/sbin
# shellcheck disable=SC1091
release=$(. /etc/os-release && echo "$ID-${VERSION_ID:-}")

say() { echo "$program: $*" >&2; }
fail() { say "$*"; exit 1; }
# A process lets go of its locks only when each of its threads is a zombie; who reaps it, and when, is not ours to know.
has_ended() { ! grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/task/"*/status; }
