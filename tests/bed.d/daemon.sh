# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by tests/bed: the private libvirtd of the bed in $dir with the id $token.

# As root: directories of its own in place of the host's, in a mount namespace.
declare -A mounts=([run]=/run/libvirt [lib]=/var/lib/libvirt [cache]=/var/cache/libvirt [log]=/var/log/libvirt
    [etc]=/etc/libvirt [tpmlog]=/var/log/swtpm [tpmca]=/var/lib/swtpm-localca)
# Which beds there are, and which mount points they had to make.
claims=/run/livedisk-bed

# Short names: below them libvirt makes sockets, whose paths may have 107 bytes.
daemon_paths() {
    state=$dir/d.$token
    if [[ $EUID == 0 ]]; then
        uri="qemu+unix:///system?socket=$state/run/libvirt-sock"
        conf=$state/etc
        pids=$state/run/qemu
    else
        uri="qemu+unix:///session?socket=$state/run/libvirt/libvirt-sock"
        conf=$state/c/libvirt
        pids=$state/run/libvirt/qemu/run
    fi
}

# Its cache is the bed's, else it would make one in the caller's home.
virsh() { XDG_CACHE_HOME=$state/cache command virsh -q -c "$uri" "$@"; }

daemon_prepare() {
    mkdir -p "$conf" "$state"/{run,lib,cache,log,tpmlog,tpmca,tpmtmp}
    [[ $EUID != 0 ]] || chown nobody "$state"/tpm*
    cat >"$conf/libvirtd.conf" <<TEXT
host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:stderr"
TEXT
    [[ -z $group ]] || cat >>"$conf/libvirtd.conf" <<TEXT
unix_sock_group = "$group"
unix_sock_rw_perms = "0770"
TEXT
    host_files "$state" "$conf"
    capabilities_known
}

# What libvirt found out about QEMU, which takes it two seconds, is kept from bed to bed. libvirt itself sees whether it
# still holds: for these programs, this kernel and this processor.
capabilities_known() {
    local kept=$cache/capabilities-$EUID
    capabilities=$state/cache/qemu/capabilities
    [[ $EUID == 0 ]] || capabilities=$state/cache/libvirt/qemu/capabilities
    [[ ! -d $kept ]] || { mkdir -p "$capabilities" && cp "$kept"/*.xml "$capabilities/"; }
}

capabilities_keep() {
    local kept=$cache/capabilities-$EUID file
    mkdir -p "$kept"
    for file in "$capabilities"/*.xml; do
        cmp -s "$file" "$kept/${file##*/}" || { cp "$file" "$kept/.$token" && mv "$kept/.$token" "$kept/${file##*/}"; }
    done
}

daemon_start() {
    local deadline=$((SECONDS + 60))
    if [[ $EUID == 0 ]]; then
        claim
        # slave: what the host mounts later shows inside too, and nothing shows outside.
        # shellcheck disable=SC2016
        daemon_launch unshare --mount --propagation slave bash -c '
            set -e
            . "$1/host.sh"
            state=$2; shift 2
            while (($# > 0)); do mount --bind "$state/$1" "$2"; shift 2; done
            host_mounts "$state"
            # swtpm_setup, which is not root, makes files there.
            export TMPDIR=$state/tpmtmp
            exec libvirtd --pid-file "$state/libvirtd.pid"' libvirtd "$here/bed.d" "$state" $(for part in "${!mounts[@]}"; do echo "$part ${mounts[$part]}"; done)
    else
        XDG_RUNTIME_DIR=$state/run XDG_CONFIG_HOME=$state/c XDG_CACHE_HOME=$state/cache XDG_DATA_HOME=$state/lib \
            daemon_launch libvirtd -f "$conf/libvirtd.conf" --pid-file "$state/libvirtd.pid"
    fi
    until virsh uri >/dev/null 2>&1; do
        kill -0 "$daemon" 2>/dev/null || fail "libvirtd ended; see $dir/daemon.log"
        ((SECONDS < deadline)) || fail "libvirtd does not answer on $uri; see $dir/daemon.log"
        sleep 0.05
    done
}

# A session of its own, so that Ctrl-C at the terminal is not for it; and none of our descriptors, or a pipe from us
# would never end. Where it crashes, it is started again at once, as systemd does: libvirt 9.0 crashes now and then when a
# client with QEMU monitor callbacks is killed (remoteClientFreePrivateCallbacks). A signal that a test sends is no crash.
daemon_launch() {
    rm -f "$state/pid"
    # shellcheck disable=SC2016
    setsid bash -c '
        state=$0
        for _ in {1..20}; do
            bash -c "echo \$\$ >\"\$0\"; exec \"\$@\"" "$state/pid" "$@" &
            status=0
            wait $! || status=$?
            # SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV
            [[ " 132 134 135 136 139 " == *" $status "* ]] || exit 0
            echo "$(date +%T) signal $((status - 128))" >>"$state/crashes"
            sleep 0.1
        done' "$state" "$@" </dev/null >>"$dir/daemon.log" 2>&1 &
    disown
    until [[ -s $state/pid ]]; do sleep 0.01; done
    daemon=$(<"$state/pid")
}

daemon_stop() {
    local pid
    pid=$(cat "$state/pid" 2>/dev/null || true)
    rm -f "$state/pid"
    [[ -n $pid && " $(bed_processes) " == *" $pid "* ]] || return 0
    kill "-$1" "$pid" 2>/dev/null || true
    for _ in {1..200}; do
        ! has_ended "$pid" || return 0
        sleep 0.05
    done
    kill -KILL "$pid" 2>/dev/null || true
}

# Everything that runs in the bed, and nothing else: by its mount of the bed's own directory, or as an ordinary user by
# the environment that libvirt gives it.
bed_processes() {
    if [[ $EUID == 0 ]]; then
        grep -ls "/d.$token/run /run/libvirt " /proc/[0-9]*/mountinfo
    else
        grep -lszE "^XDG_(RUNTIME_DIR|CONFIG_HOME|CACHE_HOME|DATA_HOME)=$state/" /proc/[0-9]*/environ
    fi 2>/dev/null | cut -d/ -f3 | tr '\n' ' ' || true
}

daemon_end() {
    local left crash
    while read -r crash; do
        say "libvirtd crashed ($crash) and was started again; see the test that ran then"
    done < <(cat "$state/crashes" 2>/dev/null)
    daemon_stop KILL
    for _ in {1..100}; do
        left=$(bed_processes)
        [[ -n $left ]] || break
        # shellcheck disable=SC2086
        kill -KILL $left 2>/dev/null || true
        sleep 0.05
    done
    [[ -z $left ]] || say "processes that do not end: $left"
    [[ $EUID != 0 ]] || unclaim
}

claim() {
    (
        flock 8
        mkdir -p "$claims/beds"
        touch "$claims/beds/$token"
        for point in "${mounts[@]}"; do
            [[ -d $point ]] || { mkdir -p "$point"; echo "$point" >>"$claims/made"; }
        done
    ) 8</run
}

# The last bed removes the mount points: to remove one that another bed uses would unmount it there.
unclaim() {
    (
        flock 8
        rm -f "$claims/beds/$token"
        [[ -d $claims && -z $(ls -A "$claims/beds") ]] || exit 0
        [[ ! -e $claims/made ]] || xargs -a "$claims/made" rmdir --ignore-fail-on-non-empty
        rm -r "$claims"
    ) 8</run
}
