# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by tests/bed and tests/demo: what libvirt's QEMU driver finds of the host.

# host_files STATE CONF: what host_mounts puts in the host's place, and the driver's configuration.
host_files() {
    # libvirt does not start without its built-in user and group, whatever qemu.conf says; only libvirt-daemon-system
    # makes them. The group is kvm on Ubuntu.
    install -m 000 /dev/null "$1/no-kvm"
    cp /etc/passwd /etc/group "$1/"
    getent passwd libvirt-qemu >/dev/null ||
        echo "libvirt-qemu:x:$(id -u nobody):$(id -g nobody)::/nonexistent:/usr/sbin/nologin" >>"$1/passwd"
    for group in libvirt-qemu kvm; do
        getent group $group >/dev/null || echo "$group:x:$(id -g nobody):" >>"$1/group"
    done
    cat >"$2/qemu.conf" <<'TEXT'
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
TEXT
    # An unprivileged user for QEMU, so that ownership and permissions are as on a real host.
    ((EUID != 0)) || cat >>"$2/qemu.conf" <<'TEXT'
user = "nobody"
group = "nogroup"
dynamic_ownership = 1
swtpm_user = "nobody"
swtpm_group = "nogroup"
TEXT
}

# host_mounts STATE: as root, in a mount namespace of one's own.
host_mounts() {
    mount --bind "$1/passwd" /etc/passwd
    mount --bind "$1/group" /etc/group
    # Guests may hang under it, and probing it may take a minute. Something that QEMU may not open is taken for none.
    [[ ! -e /dev/kvm ]] || mount --bind "$1/no-kvm" /dev/kvm
}
