# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by tests/bed: makes one guest's disks and domain, and waits until it writes.

# guest_parse SPEC: sets what the SPEC says and the defaults for the rest.
guest_parse() {
    local field fields size="[0-9]+[KMGT]?"
    name=guest1 disks=qcow2-backed:64M data=16M persistent=yes agent=yes cdrom=no tpm=no memory=128
    IFS=, read -ra fields <<<"$1"
    for field in "${fields[@]}"; do
        case $field in
            name=* | disks=* | data=* | memory=* | persistent=yes | persistent=no | agent=yes | agent=no | \
                cdrom=yes | cdrom=no | tpm=yes | tpm=no) printf -v "${field%%=*}" %s "${field#*=}" ;;
            *) fail "--guest $1: '$field' is not known; see tests/bed --help" ;;
        esac
    done
    [[ $disks =~ ^(raw|qcow2|qcow2-backed):$size(\+(raw|qcow2|qcow2-backed):$size){0,15}$ ]] ||
        fail "--guest $1: disks are KIND:SIZE joined by '+', KIND raw, qcow2 or qcow2-backed, SIZE such as 64M"
    [[ $data =~ ^$size$ && $memory =~ ^[0-9]+$ ]] || fail "--guest $1: data is a size such as 16M, memory a number"
    [[ $name =~ ^[A-Za-z0-9_.-]{1,30}$ ]] || fail "--guest $1: the name may have letters, digits, and . _ -"
}

bytes() { numfmt --from=iec "$1"; }

# make_disk KIND SIZE PATH: an ext4 file system without a partition table, with the data in it. Sets xml to the
# elements below <disk>.
make_disk() {
    local kind=$1 size=$2 path=$3 content=$dir/content amount
    amount=$(bytes "$data")
    ((amount <= size / 4)) || amount=$((size / 4))
    mkdir "$content"
    head -c "$amount" /dev/urandom >"$content/data"
    truncate -s "$size" "$path.new"
    mkfs.ext4 -q -F -m 0 -d "$content" "$path.new"
    rm -r "$content"
    local chain=
    case $kind in
        raw) mv "$path.new" "$path" ;;
        qcow2) qemu-img convert -f raw -O qcow2 "$path.new" "$path" ;;
        qcow2-backed)
            local base=${path%.*}.base.qcow2
            qemu-img convert -f raw -O qcow2 "$path.new" "$base"
            qemu-img create -q -f qcow2 -F qcow2 -b "$base" "$path"
            chain="<backingStore type='file'><format type='qcow2'/><source file='$base'/><backingStore/></backingStore>"
            tell "BASE_${number}_${target^^}" "$base"
            ;;
    esac
    rm -f "$path.new"
    xml="<driver name='qemu' type='${kind%-backed}' discard='unmap'/><source file='$path'/>${chain:-<backingStore/>}"
}

guest_start() {
    local disk part target path xml all='' letters=abcdefghijklmnop index=0 channel='' suffix
    tell "DOMAIN_$number" "$name"
    IFS=+ read -ra part <<<"$disks"
    for disk in "${part[@]}"; do
        target=vd${letters:index:1}
        index=$((index + 1))
        [[ $disk == raw:* ]] && suffix=raw || suffix=qcow2
        path=$dir/$name-$target.$suffix
        tell "IMAGE_${number}_${target^^}" "$path"
        make_disk "${disk%%:*}" "$(bytes "${disk#*:}")" "$path"
        all+="<disk type='file' device='disk'>$xml<target dev='$target' bus='virtio'/></disk>
    "
    done
    [[ $cdrom == no ]] || all+="<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>"
    [[ $tpm == no ]] || all+="<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
    [[ $agent == no ]] ||
        channel="<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    tell "WRITER_$number" "$dir/$name.writer"
    tell "CONTROL_$number" "$dir/$name.control"
    tell "CONSOLE_$number" "$dir/$name.console"
    tell "PIDFILE_$number" "$pids/$name.pid"
    # Made by us so that they stay readable for us whatever QEMU's umask.
    touch "$dir/$name".{writer,console}
    chmod 644 "$dir/$name".{writer,console}
    # An emulated kernel takes a third longer with what the words after quiet leave out.
    local boot="console=ttyS0 quiet edd=off mitigations=off cryptomgr.notests nokaslr lsm= panic=1 agent=$agent"
    # The metadata are what virt-install writes: an operation's record comes and goes beside what others keep there.
    cat >"$dir/$name.xml" <<XML
<domain type='qemu'>
  <name>$name</name>
  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>
      <libosinfo:os id='http://libosinfo.org/linux/2022'/>
    </libosinfo:libosinfo>
  </metadata>
  <memory unit='MiB'>$memory</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>$dir/vmlinuz</kernel>
    <initrd>$dir/initrd</initrd>
    <cmdline>$boot</cmdline>
  </os>
  <features><acpi/></features>
  <clock offset='utc'/>
  <devices>
    $all
    <controller type='pci' index='0' model='pcie-root'/>
    $(for _ in {1..8}; do echo "<controller type='pci' model='pcie-root-port'/>"; done)
    <controller type='usb' model='none'/>
    <serial type='file'><source path='$dir/$name.console' append='on'/></serial>
    $channel
    <channel type='unix'><source mode='bind' path='$dir/$name.control'/><target type='virtio' name='org.livedisk.bed.0'/></channel>
    <channel type='file'><source path='$dir/$name.writer' append='on'/><target type='virtio' name='org.livedisk.writer.0'/></channel>
    <memballoon model='none'/>
  </devices>
</domain>
XML
    if [[ $persistent == yes ]]; then
        virsh define "$dir/$name.xml" >&2
        virsh start "$name" >&2
    else
        virsh create "$dir/$name.xml" >&2
    fi
}

# Until every disk's writer writes and the agent answers.
guest_wait() {
    local deadline=$((SECONDS + 120)) index count
    count=$(tr -cd + <<<"$disks" | wc -c)
    for ((index = 0; index <= count; index++)); do
        until grep -q " vd$(printf "\\x$((61 + index))") " "$dir/$name.writer"; do guest_patience; done
    done
    [[ -z $group ]] || chmod o+w "$dir/$name.control"
    "$dir/bin/guest-ctl" "$dir/$name.control" clock >/dev/null || fail "$name: its clock cannot be set"
    [[ $agent == yes ]] || return 0
    until [[ $(virsh dumpxml "$name") == *"name='org.qemu.guest_agent.0' state='connected'"* ]] &&
        virsh qemu-agent-command --timeout 5 "$name" '{"execute":"guest-ping"}' >/dev/null 2>&1; do
        guest_patience
    done
}

guest_patience() {
    ((SECONDS < deadline)) || fail "$name does not write, or its agent does not answer"
    [[ $(virsh domstate "$name") == running ]] || fail "$name ended while it started"
    sleep 0.1
}
