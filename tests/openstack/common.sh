# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by the scripts of this folder: where the small OpenStack is kept, and its namespaces.
. "$here/../bed.d/common.sh"
cloud=$cache/openstack
root=$cloud/root
# Databases and configuration, as a layer upon root.
configured=$cloud/configured

need_root() { ((EUID == 0)) || fail "needs root: it makes namespaces and mounts; run: sudo make openstack"; }

# namespaces LAYERS DIR: runs the files of LAYERS (as overlayfs names them), with namespaces of their own, until process 1 in
# there ends, or the caller. What changes is in DIR/changes. Nothing that is mounted shows outside, and with process 1 all the
# rest ends.
namespaces() {
    local layers=$1 dir=$2
    mkdir -p "$dir"/{changes,work,root}
    # shellcheck disable=SC2016
    setsid setpriv --pdeathsig KILL unshare --fork --pid --kill-child --mount --net --uts --ipc bash -c '
        set -e
        dir=$2 root=$2/root
        mount --make-rprivate /
        mount -t overlay overlay -o "lowerdir=$1,upperdir=$dir/changes,workdir=$dir/work" "$root"
        # Disks are on a plain file system, as on a real host.
        for name in nova glance; do [[ ! -e $dir/$name ]] || mount --bind "$dir/$name" "$root/var/lib/$name"; done
        mount -t proc proc "$root/proc"
        mount -t sysfs sysfs "$root/sys"
        mount -t tmpfs -o mode=755 tmpfs "$root/dev"
        while read -r name major minor; do mknod -m 666 "$root/dev/$name" c "$major" "$minor"; done <<<"null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0"
        mkdir "$root"/dev/{pts,shm,net}
        mknod -m 666 "$root/dev/net/tun" c 10 200
        mount -t devpts -o gid=5,mode=620,ptmxmode=666,newinstance devpts "$root/dev/pts"
        ln -s pts/ptmx "$root/dev/ptmx"
        ln -s /proc/self/fd "$root/dev/fd"
        mount -t tmpfs tmpfs "$root/dev/shm"
        mount -t tmpfs -o mode=755 tmpfs "$root/run"
        mkdir -p "$root"/run/{lock,sudo}
        hostname livedisk-os
        ip link set lo up
        exec chroot "$root" /bin/bash -c "trap exit TERM; echo up; while :; do sleep 3600 & wait \$!; done"' \
        namespaces "$layers" "$dir" </dev/null >"$dir/namespaces.log" 2>&1 &
    echo $! >"$dir/unshare.pid"
    disown
    for _ in {1..100}; do
        ! grep -qs '^up$' "$dir/namespaces.log" || return 0
        sleep 0.1
    done
    fail "the namespaces did not come up: $(tail -n 3 "$dir/namespaces.log")"
}

# inside DIR COMMAND...: in the namespaces of DIR. Its process 1 is the only child of unshare.
inside() {
    local dir=$1 first
    shift
    first=$(cat "/proc/$(cat "$dir/unshare.pid")/task/$(cat "$dir/unshare.pid")/children")
    [[ -n $first ]] || fail "the OpenStack in $dir has ended"
    nsenter -t "${first%% *}" -m -p -n -u -i chroot "$dir/root" /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 TERM=dumb \
        PATH=/opt/os/venv/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# end DIR: kills everything in the namespaces of DIR, which takes the mounts along.
end() {
    local pid
    pid=$(cat "$1/unshare.pid" 2>/dev/null) || return 0
    [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") == *"$1"* ]] || return 0
    kill -KILL "$pid" 2>/dev/null || true
    for _ in {1..200}; do
        ! has_ended "$pid" || break
        sleep 0.05
    done
    rm -f "$1/unshare.pid"
}
