#!/usr/bin/env bash
# A lab on one Linux machine: computers that have nothing in common but a network, for tests of a cluster's whole life.
#
#   laptop 10.77.0.1     where commands are given; it has the checkout, and its environment
#   head   10.77.0.10    sshd, and an environment in ~/venv that sees the checkout's dependencies, but not the checkout
#   w1 ... 10.77.0.11 ...
#
# Each has a network, processes, a host name, a home folder, /tmp, /dev/shm and a disk of its own: network, process, mount,
# IPC and UTS namespaces, the disk a copy-on-write view of this machine's (overlayfs). The bridge between them lies in the
# laptop's namespace, so that this machine's network is left as it is. The first process of a computer is its sshd: with
# that, the computer ends, and everything that runs in it.
#
#   netns.sh up | down           all computers; `down` leaves their homes and /tmp in $LAB to be looked at
#   netns.sh run HOST COMMAND... in the folder that this is called in, if the computer has it
#   netns.sh crash HOST          as when somebody pulls the plug;  boot HOST: on again, the disk as it was
#   netns.sh unplug HOST         the network cable;                plug HOST
#
# LAB: folder for its state, on a disk. ENVIRONMENT: the virtual environment. CHECKOUT: the laptop's alone. WORKERS: 2.
set -euo pipefail

: "${LAB:?}" "${ENVIRONMENT:?}" "${CHECKOUT:?}" "${WORKERS:=2}"
NET=10.77.0
PREFIX=hilbert$(printf %s "$LAB" | cksum | cut -d' ' -f1)
SELF=$(readlink -f "$0")
HOME_THERE=$(getent passwd 0 | cut -d: -f6)
DEPENDENCIES=/opt/dependencies

die() { echo "netns: $*" >&2; exit 1; }
hosts() { echo laptop head; for ((i = 1; i <= WORKERS; i++)); do echo "w$i"; done; }
address() { case $1 in laptop) echo $NET.1 ;; head) echo $NET.10 ;; w*) echo $NET.$((10 + ${1#w})) ;; *) die "no host $1" ;; esac; }

# The first process of a host, as seen from outside. A number that somebody else has by now is not taken for it.
first_process() {
    local pid
    pid=$(cat "$LAB/$1/pid" 2>/dev/null) && [ -e "/proc/$pid/ns/net" ] || return 1
    [ "$(stat -Lc %i "/proc/$pid/ns/net")" = "$(stat -Lc %i "/run/netns/$PREFIX-$1" 2>/dev/null)" ] || return 1
    echo "$pid"
}

connect() {
    local host=$1 space=$PREFIX-$1 laptop=$PREFIX-laptop
    [ -e "/run/netns/$space" ] || ip netns add "$space"
    ip -n "$space" link set lo up
    if [ "$host" = laptop ]; then
        ip -n "$space" link show br0 >/dev/null 2>&1 || ip -n "$space" link add br0 type bridge
        ip -n "$space" addr replace "$(address laptop)/24" dev br0
        ip -n "$space" link set br0 up
        ip -n "$space" route replace default dev br0  # leads nowhere; Ray finds its own address by it
    elif ! ip -n "$space" link show eth0 >/dev/null 2>&1; then
        ip -n "$laptop" link add "v-$host" type veth peer name eth0 netns "$space"
        ip -n "$laptop" link set "v-$host" master br0 up
        ip -n "$space" addr replace "$(address "$host")/24" dev eth0
        ip -n "$space" link set eth0 up
        ip -n "$space" route replace default via "$(address laptop)"
    fi
}

boot() {
    local host=$1 own=$LAB/$1
    first_process "$host" >/dev/null && return
    connect "$host"
    rm -rf "$own/tmp" "$own/work" "$own/ready"
    mkdir -p "$own"/{disk,work,system,tmp,home,kept}
    chmod 1777 "$own/tmp"
    LAB=$LAB ENVIRONMENT=$ENVIRONMENT CHECKOUT=$CHECKOUT WORKERS=$WORKERS \
        setsid nsenter --net="/run/netns/$PREFIX-$host" unshare --mount --uts --ipc --pid --fork --propagation private \
        bash "$SELF" first-process "$host" </dev/null >"$own/boot.log" 2>&1 &
    for _ in $(seq 150); do
        if [ -e "$own/ready" ] && first_process "$host" >/dev/null; then
            [ "$host" = laptop ] && return
            ip netns exec "$PREFIX-laptop" bash -c "exec 3<>/dev/tcp/$(address "$host")/22" 2>/dev/null && return
        fi
        sleep 0.1
    done
    die "$host doesn't boot: $(cat "$own/boot.log")"
}

# Runs as the first process of a host's namespaces, and becomes its sshd.
begin() {
    local host=$1 own=$LAB/$1 system=$LAB/$1/system home=$LAB/$1/system$HOME_THERE pid _
    read -r pid _ </proc/self/stat # /proc is the outer one still
    echo "$pid" >"$own/pid"
    hostname "$host"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$own/disk,workdir=$own/work" "$system"
    mount --rbind /dev "$system/dev"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$system/dev/pts"
    mount -t tmpfs -o size=8g,mode=1777 tmpfs "$system/dev/shm"
    mount -t proc proc "$system/proc"
    mount -t sysfs sysfs "$system/sys"
    mount -t tmpfs -o mode=755 tmpfs "$system/run"
    mkdir -p "$system/run/sshd" "$system$DEPENDENCIES"
    own_home "$host"
    if [ "$host" = laptop ]; then
        mkdir -p "$system$CHECKOUT"
        mount --rbind "$CHECKOUT" "$system$CHECKOUT"
    else
        mount --bind "$(packages "$ENVIRONMENT")" "$system$DEPENDENCIES"
        mount -o remount,bind,ro "$system$DEPENDENCIES"
        [ ! -d "$system$CHECKOUT" ] || mount -t tmpfs -o size=1m tmpfs "$system$CHECKOUT" # else /tmp or home hid it
        [ -e "$home/venv" ] || own_environment "$home/venv"
    fi
    echo "$host" >"$system/etc/hostname"
    { echo "127.0.0.1 localhost"; for other in $(hosts); do echo "$(address "$other") $other"; done; } >"$system/etc/hosts"
    rm -f "$system/etc/resolv.conf"
    echo "nameserver 127.0.0.1" >"$system/etc/resolv.conf" # questions for names fail at once
    install -m 600 "$LAB/host_key" "$system/etc/ssh/lab_host_key"
    printf '%s\n' "ListenAddress $(address "$host")" "HostKey /etc/ssh/lab_host_key" "PermitRootLogin prohibit-password" \
        "PasswordAuthentication no" "KbdInteractiveAuthentication no" "UsePAM no" "UseDNS no" "PidFile none" \
        "MaxStartups 100" "MaxSessions 100" >"$system/etc/ssh/sshd_config"
    mkdir -p "$system/.outside"
    touch "$own/ready"
    cd "$system"
    pivot_root . .outside
    umount -l /.outside
    cd "$HOME_THERE"
    export HOME=$HOME_THERE USER=root LOGNAME=root SHELL=/bin/bash LANG=C.UTF-8 PATH=$PATH_THERE
    unset LAB ENVIRONMENT CHECKOUT WORKERS
    exec /usr/sbin/sshd -D -e
}
PATH_THERE=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

packages() { "$1/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
interpreter() { "$1/bin/python" -I -c 'import sys; print(sys.base_prefix)'; }

# A home and /tmp of its own. Of the real ones a host keeps the interpreter and, the laptop, the environment.
own_home() {
    local own=$LAB/$1 system=$LAB/$1/system place kept
    mkdir -p "$own"/kept/{tmp,home}
    mount --bind "$system/tmp" "$own/kept/tmp"
    mount --bind "$system$HOME_THERE" "$own/kept/home"
    mount --bind "$own/tmp" "$system/tmp"
    mount --bind "$own/home" "$system$HOME_THERE"
    for place in "$(interpreter "$ENVIRONMENT")" "$([ "$1" = laptop ] && echo "$ENVIRONMENT")"; do
        case $place in
        /tmp/*) kept=$own/kept/tmp/${place#/tmp/} ;;
        "$HOME_THERE"/*) kept=$own/kept/home/${place#"$HOME_THERE"/} ;;
        *) continue ;;
        esac
        mkdir -p "$system$place"
        mount --bind "$kept" "$system$place"
    done
    mkdir -p -m 700 "$own/home/.ssh"
    cp "$LAB/key.pub" "$own/home/.ssh/authorized_keys"
    [ "$1" = laptop ] && install -m 600 "$LAB/key" "$own/home/.ssh/id_ed25519"
    [ -e "$own/home/.bashrc" ] || echo "export PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=false PYTHONUNBUFFERED=1" >"$own/home/.bashrc"
    echo ". ~/.bashrc" >"$own/home/.profile"
}

# An environment as `pip install` of all that HILBERT needs would leave it, but without HILBERT.
own_environment() {
    local place=$1 name
    "$(interpreter "$ENVIRONMENT")/bin/python3" -m venv --without-pip "$place"
    echo "$DEPENDENCIES" >"$(packages "$place")/dependencies.pth"
    for name in ray mlflow pip; do
        { echo "#!$HOME_THERE/venv/bin/python"; tail -n +2 "$ENVIRONMENT/bin/$name"; } >"$place/bin/$name"
        chmod 755 "$place/bin/$name"
    done
}

crash() {
    local pid
    pid=$(first_process "$1") || return 0
    kill -9 "$pid"
    for _ in $(seq 100); do [ -e "/proc/$pid" ] || break; sleep 0.1; done
    rm -f "$LAB/$1/pid"
}

run() {
    local pid
    pid=$(first_process "$1") || die "$1 is not running"
    shift
    exec nsenter -t "$pid" -m -u -i -n -p -- env -i HOME="$HOME_THERE" USER=root LOGNAME=root SHELL=/bin/bash LANG=C.UTF-8 \
        TERM=dumb PATH="$ENVIRONMENT/bin:$PATH_THERE" RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 \
        bash -c 'cd "$0" 2>/dev/null || cd; exec "$@"' "${FOLDER:-$PWD}" "$@"
}

case ${1:-} in
up)
    mkdir -p "$LAB"
    for name in key host_key; do [ -e "$LAB/$name" ] || ssh-keygen -q -t ed25519 -N '' -C lab -f "$LAB/$name"; done
    for host in $(hosts); do boot "$host"; done
    ;;
down)
    for host in $(hosts); do crash "$host"; done
    for host in $(hosts); do
        [ ! -e "/run/netns/$PREFIX-$host" ] || ip netns del "$PREFIX-$host"
        rm -rf "$LAB/$host"/{disk,work,system,kept}
    done
    ;;
boot) boot "$2" ;;
crash) crash "$2" ;;
unplug) # the laptop has the bridge, which must go on working for the others: it loses its address
    if [ "$2" = laptop ]; then ip -n "$PREFIX-laptop" addr flush dev br0
    else ip -n "$PREFIX-laptop" link set "v-$2" down; fi
    ;;
plug)
    connect "$2"
    [ "$2" = laptop ] || ip -n "$PREFIX-laptop" link set "v-$2" up
    ;;
run) shift && run "$@" ;;
first-process) begin "$2" ;;
*) sed -n '2,/^set -euo/p' "$SELF" | sed '$d; s/^# \{0,1\}//' ;;
esac
