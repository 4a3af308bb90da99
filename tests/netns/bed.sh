# The network that the cases play on; read by cases.sh. Machines are network namespaces:
#
#   internet --- wan:routerA:lan --- A        one bridge, 45.0.0.0/24, on which public machines and routers sit;
#            --- wan:routerB:lan --- B        behind each router a LAN, 192.168.N.0/24
#            --- relay, public machines
#
# Needs root, iproute2, nftables and python3 (which also plays the wire where the kernel has no `tc netem`).

tag=$$
work=$(mktemp -d)
pids=
machines=
here=$(cd "$(dirname "$0")" && pwd)

cleanup() {
    for machine in $machines; do
        [ -d "$work/$machine" ] && on "$machine" stop >/dev/null 2>&1
    done
    for pid in $pids; do kill -CONT "$pid" 2>/dev/null; kill "$pid" 2>/dev/null; done
    for machine in $machines; do
        ip netns del "ah$tag-$machine" 2>/dev/null
        rm -rf "/etc/netns/ah$tag-$machine"
    done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

fail() {
    echo "FAILED: $1" >&2
    for log in "$work"/*.log "$work"/*/logs/*.log; do
        [ -f "$log" ] && echo "--- $log" >&2 && tail -n "${LOG_LINES:-40}" "$log" >&2
    done
    exit 1
}

say() { echo "$(($(date +%s) - begun)) s: $*"; }
begun=$(date +%s)

# within MACHINE COMMAND...: runs a command on a machine.
within() { m=$1; shift; ip netns exec "ah$tag-$m" "$@"; }

# on MACHINE ARGUMENTS...: runs the program there.
on() { m=$1; shift; ip netns exec "ah$tag-$m" "$program" --home "$work/$m" "$@"; }

# await SECONDS COMMAND...: repeats a command until it succeeds, and fails if that takes longer.
await() {
    end=$(($(date +%s%3N) + $1 * 1000))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s%3N)" -lt "$end" ] || fail "not in time: $*"
        sleep 0.1
    done
}

machine() {
    machines="$machines $1"
    ip netns add "ah$tag-$1"
    ip -n "ah$tag-$1" link set lo up
}

# cable MACHINE DEVICE MACHINE DEVICE [DELAY-MS JITTER-MS LOSS-PERCENT RATE-MBIT]: joins two machines.
cable() {
    if [ $# -eq 4 ]; then
        ip -n "ah$tag-$1" link add "$2" type veth peer name "$4" netns "ah$tag-$3"
    elif ip -n "ah$tag-$1" link add "$2" type veth peer name "$4" netns "ah$tag-$3" &&
        ip netns exec "ah$tag-$1" tc qdisc add dev "$2" root netem delay "$5ms" "$6ms" loss "$7%" rate "$8mbit" 2>/dev/null; then
        ip netns exec "ah$tag-$3" tc qdisc add dev "$4" root netem delay "$5ms" "$6ms" loss "$7%" rate "$8mbit"
    else
        ip -n "ah$tag-$1" link del "$2"
        # Both taps begin on the first machine; the second then moves, and stays held by the wire.
        ip netns exec "ah$tag-$1" python3 "$here/wire.py" "$2" "w$4" "$5" "$6" "$7" "$8" >"$work/wire-$2.out" 2>&1 &
        pids="$pids $!"
        await 5 grep -q ready "$work/wire-$2.out"
        ip -n "ah$tag-$1" link set "w$4" netns "ah$tag-$3" name "$4"
    fi
    ip -n "ah$tag-$1" link set "$2" up
    ip -n "ah$tag-$3" link set "$4" up
}

internet() {
    machine net
    ip -n "ah$tag-net" link add br0 type bridge mcast_snooping 0
    ip -n "ah$tag-net" link set br0 up
}

# public MACHINE NUMBER [DELAY JITTER LOSS RATE]: a machine on the internet, 45.0.0.NUMBER.
public() {
    m=$1 n=$2
    shift 2
    [ -e "/run/netns/ah$tag-$m" ] || machine "$m"
    cable net "p$n" "$m" wan "$@"
    ip -n "ah$tag-net" link set "p$n" master br0
    # The internet is no LAN: discovery does not reach across.
    ip -n "ah$tag-net" link set dev "p$n" type bridge_slave mcast_flood off
    ip -n "ah$tag-$m" addr add "45.0.0.$n/24" dev wan
    ip -n "ah$tag-$m" route add unreachable 192.168.0.0/16
}

# moves MACHINE FROM TO: a machine on the internet gets another address.
moves() {
    ip -n "ah$tag-$1" addr del "45.0.0.$2/24" dev wan
    ip -n "ah$tag-$1" addr add "45.0.0.$3/24" dev wan
    ip -n "ah$tag-$1" route replace unreachable 192.168.0.0/16
}

# router NAME NUMBER cone|symmetric [DELAY JITTER LOSS RATE]: a NAT at 45.0.0.NUMBER with the LAN 192.168.NUMBER.0/24. As
# home routers do, it drops what nobody inside has asked for, and so keeps no track of it.
router() {
    nat=$1 number=$2 kind=$3
    shift 3
    public "$nat" "$number" "$@"
    within "$nat" sysctl -qw net.ipv4.ip_forward=1
    [ "$kind" = symmetric ] && random=fully-random || random=
    within "$nat" nft -f - <<RULES
table ip nat {
    chain post {
        type nat hook postrouting priority 100;
        oifname "wan" masquerade $random
    }
}
table ip filter {
    chain input {
        type filter hook input priority 0;
        iifname "wan" ct state established,related accept
        iifname "wan" drop
    }
    chain forward {
        type filter hook forward priority 0;
        ct state established,related accept
        iifname "wan" drop
    }
}
RULES
}

# mapper ROUTER NUMBER upnp|pcp|natpmp: the router maps ports for those on its LAN who ask in this way. Of UPnP and PCP
# that is miniupnpd's work; NAT-PMP is that of a server of ours, which grants little time and tells what it was asked.
mapper() {
    # What was mapped has been translated by then.
    within "$1" nft insert rule ip filter forward ct status dnat accept
    if [ "$3" = natpmp ]; then
        ip netns exec "ah$tag-$1" python3 "$here/natpmp.py" "192.168.$2.1" "45.0.0.$2" 4 >"$work/mapper.out" 2>"$work/mapper.log" &
        pids="$pids $!"
        await 5 grep -q ready "$work/mapper.out"
        return
    fi
    within "$1" nft -f - <<RULES
table inet filter {
    chain forward { type filter hook forward priority 0; policy accept; jump miniupnpd; }
    chain miniupnpd { }
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain prerouting_miniupnpd { }
    chain postrouting { type nat hook postrouting priority 90; oifname "wan" jump postrouting_miniupnpd; }
    chain postrouting_miniupnpd { }
}
RULES
    [ "$3" = upnp ] && kinds="enable_upnp=yes enable_natpmp=no" || kinds="enable_upnp=no enable_natpmp=yes"
    {
        printf '%s\n' ext_ifname=wan listening_ip=lan ipv6_disable=yes $kinds "lease_file=$work/leases"
        printf '%s\n' "uuid=12345678-0000-0000-0000-00000000000$2" "allow 1024-65535 192.168.$2.0/24 1024-65535"
    } >"$work/mapper.conf"
    ip netns exec "ah$tag-$1" miniupnpd -d -f "$work/mapper.conf" -P "$work/mapper.pid" >"$work/mapper.log" 2>&1 &
    pids="$pids $!"
}

# behind MACHINE ROUTER NUMBER: a machine on a router's LAN.
behind() {
    machine "$1"
    cable "$2" lan "$1" eth0
    ip -n "ah$tag-$2" addr add "192.168.$3.1/24" dev lan
    ip -n "ah$tag-$1" addr add "192.168.$3.2/24" dev eth0
    ip -n "ah$tag-$1" route add default via "192.168.$3.1"
}

# relay ARGUMENTS...: starts the relay at 45.0.0.9; its addresses are then in $relay, its counters at its loopback.
relay() {
    [ -e "/run/netns/ah$tag-relay" ] || public relay 9
    ip netns exec "ah$tag-relay" "$program" --json relay --key "$work/relay.key" --metrics-port 9100 \
        --external /ip4/45.0.0.9/tcp/4001 --external /ip4/45.0.0.9/udp/4001/quic-v1 "$@" \
        >"$work/relay.out" 2>>"$work/relay.log" &
    relay_pid=$!
    pids="$pids $relay_pid"
    await 20 grep -q addresses "$work/relay.out"
    relay=$(grep -o '/ip4/45[^"]*' "$work/relay.out" | paste -sd' ')
}

# relayed_bytes: all that has passed the relay, in and out.
relayed_bytes() {
    within relay python3 -c '
import re, urllib.request
page = urllib.request.urlopen("http://127.0.0.1:9100/metrics").read().decode()
print(sum(int(n) for n in re.findall(r"^libp2p_bandwidth_bytes_total.* (\d+)$", page, re.M)))'
}

# end_relay: stops it, and waits until it has ended.
end_relay() {
    kill "$relay_pid"
    wait "$relay_pid" 2>/dev/null
}

# pair MACHINE MACHINE: the second joins the account of the first, by the long code. The first one's daemon runs.
pair() {
    on "$1" device invite --yes --json >"$work/invite.log" 2>&1 &
    pids="$pids $!"
    await 30 grep -q long_code "$work/invite.log"
    code=$(sed -n 's/.*"long_code":"\([^"]*\)".*/\1/p' "$work/invite.log" | head -1)
    printf '%s\n' "$code" | on "$2" device join --name "$2" >"$work/join.log" 2>&1 || fail "joining failed"
}

# rows MACHINE COUNT KIB: imports COUNT rows of KIB KiB that do not compress well, each a commit of its own.
rows() {
    head -c $(($2 * $3 * 768)) /dev/urandom | base64 -w $(($3 * 1024)) |
        awk '{ print "{\"id\":\"r" NR "\",\"blob\":\"" $0 "\"}" }' >"$work/rows.jsonl"
    on "$1" import --table "blobs$2" --key id --format jsonl --chunk 1 "$work/rows.jsonl" >"$work/import.log" 2>&1 || fail "import"
}

# stat MACHINE KEY: one of the counters of its daemon since the start.
stat_of() { on "$1" stats --json | python3 -c "import json,sys; print(json.load(sys.stdin)['total']['$2'])"; }

# Facts about the first peer of a machine.
peer() { on "$1" peer list --json | python3 -c "import json,sys; print(json.load(sys.stdin)[0]['$2'])"; }
# The same about the peer of that name.
peer_of() {
    on "$1" peer list --json |
        python3 -c "import json,sys; print(next(p['$3'] for p in json.load(sys.stdin) if p['name'] == '$2'))"
}
meets() { [ "$(peer_of "$1" "$2" connected)" = True ]; }
path_is() { case $(peer "$1" path) in $2) ;; *) return 1 ;; esac; }
connected() { [ "$(peer "$1" connected)" = True ]; }
holds() { [ "$(on "$1" get notes "$2" title)" = "$3" ]; }
digest() { on "$1" status --json | sed -n 's/.*"digest": *"\([^"]*\)".*/\1/p'; }
equal() { [ -n "$(digest "$1")" ] && [ "$(digest "$1")" = "$(digest "$2")" ]; }
pid_of() { on "$1" status --json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p'; }
