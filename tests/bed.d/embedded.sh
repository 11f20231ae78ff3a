# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by tests/demo and tests/embedded: one guest of libvirt's QEMU driver inside the processes that open it
# (qemu:///embed), without a daemon. The caller sets program and name, and then: embedded_enter "$0" "$@"; embedded_start
# SPEC. What it has then: dir, root, uri, virsh, and embedded_end.

# The user and group that libvirt wants, no /dev/kvm, an empty /run: for us and what we start only.
embedded_enter() {
    [[ $EUID == 0 && -z ${LIVEDISK_NAMESPACE:-} ]] || return 0
    unshare --mount true 2>/dev/null ||
        fail "no mount namespace can be made; run it as an ordinary user, or in a container with --cap-add SYS_ADMIN"
    LIVEDISK_NAMESPACE=1 exec unshare --mount --propagation slave "$@"
}

# The guest is QEMU's pid and nobody else's: it has our directory in its command line.
embedded_end() {
    local pid
    pid=$(cat "$root/run/qemu/$name.pid" 2>/dev/null || true)
    [[ -n $pid ]] && grep -qsF "$dir" "/proc/$pid/cmdline" || return 0
    kill -KILL "$pid"
    until has_ended "$pid"; do sleep 0.05; done
}

# Without a terminal, on which it would offer polkit's agent.
virsh() { setsid --wait virsh -q -c "$uri" "$@" </dev/null; }
# What tests/bed.d/guest.sh asks of its callers.
tell() { :; }

# embedded_start SPEC: until the guest writes and its agent answers.
embedded_start() {
    local tries
    export XDG_CACHE_HOME=$dir/cache LIBVIRT_LOG_OUTPUTS=3:file:$dir/libvirt.log
    # shellcheck disable=SC2034
    number=1 pids=$root/run/qemu
    # QEMU runs as somebody else and must get through.
    chmod 755 "$dir"
    mkdir -p "$root/etc"
    host_files "$dir" "$root/etc"
    # Nobody is to have the files back, and libvirt's notes about their owners make it warn.
    echo "remember_owner = 0" >>"$root/etc/qemu.conf"
    if [[ $EUID == 0 ]]; then
        mount -t tmpfs -o mode=755 "$program" /run
        host_mounts "$dir"
    fi
    say "starting a guest on $uri"
    cp "$cache"/guest/{vmlinuz,initrd} "$dir/"
    chmod 644 "$dir"/{vmlinuz,initrd}
    guest_parse "name=$name,$1"
    guest_start
    # One virsh waits for the agent: each opens the driver anew, and one that ends too early takes the guest along.
    virsh event --event agent-lifecycle --domain "$name" --timeout 30 >>"$dir/libvirt.log" 2>&1 ||
        say "no word of the guest's agent yet; going on"
    for ((tries = 0; ; tries++)); do
        ! grep -qs ' vda ' "$dir/$name.writer" || break
        ((tries < 600)) || fail "the guest does not write within a minute; is the machine very busy? Try again"
        sleep 0.1
    done
}
