#!/bin/sh
# What must hold between any two networks, shown with the real program and its commands only. One case a run:
#
# usage: cases.sh PATH-TO-AHENK-CLI CASE        (without a case: lists them)
set -u
program=${1:?usage: cases.sh PATH-TO-AHENK-CLI CASE}
case $program in /*) ;; *) program=$PWD/$program ;; esac
name=${2:-}
[ -n "$name" ] || { sed -n 's/^case_\([a-z_]*\)().*/\1/p' "$0"; exit 0; }
. "$(dirname "$0")/bed.sh"

# founder MACHINE: begins an account there, with the relay, and starts the daemon.
founder() {
    on "$1" init --name "$1" >/dev/null || fail "init"
    [ -z "${relay:-}" ] || on "$1" config set network.relay_servers $relay >/dev/null || fail "config"
    on "$1" start --daemon >/dev/null || fail "start"
}

# Two machines behind NATs of these kinds, paired through the relay, with their daemons running.
two_behind_nats() {
    internet
    relay
    router ra 1 "$1" $wan
    router rb 2 "$2" $wan
    behind a ra 1
    behind b rb 2
    founder a
    pair a b
    say "paired through the relay"
    on b start --daemon >/dev/null || fail "start"
}

# Two machines on the internet with this wire, paired by address, with their daemons running; no relay.
two_public() {
    internet
    public a 11 "$@"
    public b 12
    founder a
    pair a b
    on b start --daemon >/dev/null || fail "start"
    await 15 connected a
    await 15 path_is a 'direct-*'
    await 15 path_is b 'direct-*'
    say "paired, $(peer a path)"
}

case_public() {
    two_public 10 2 0 100
    rows a 40 50
    await 60 equal a b
    path_is b direct-quic || fail "not the best path"
}

case_cone() {
    wan="20 4 2 100"
    two_behind_nats cone cone
    on a put notes n1 title=one >/dev/null
    await 15 connected b
    say "connected: $(peer b path)"
    await 5 path_is b 'direct-*'
    await 5 path_is a 'direct-*'
    say "direct: $(peer b address)"
    before=$(relayed_bytes)
    rows a 20 50
    await 60 equal a b
    after=$(relayed_bytes)
    say "1 MB synced; the relay passed $((after - before)) bytes meanwhile"
    [ $((after - before)) -lt 200000 ] || fail "the relay is still in use"
    path_is b 'direct-*' || fail "no longer direct"
}

case_symmetric() {
    wan=
    two_behind_nats symmetric cone
    await 15 path_is a relayed
    since=$(peer a connected_ms)
    rows a 300 700
    await 300 equal a b
    say "$(stat_of b commits_doubled) of 300 commits came twice"
    [ "$(stat_of b commits_doubled)" -eq 0 ] || fail "commits were sent twice"
    say "210 MB synced, $(($(relayed_bytes) / 1000000)) MB passed the relay both ways"
    [ "$(relayed_bytes)" -gt 300000000 ] || fail "not through the relay"
    path_is a relayed || fail "no longer relayed"
    [ "$since" = "$(peer a connected_ms)" ] || fail "the session was cut"
}

# Two symmetric NATs, through which no hole can be punched; the router of the first maps ports to it.
mapped() {
    if [ "$1" != natpmp ] && ! command -v miniupnpd >/dev/null; then
        say "skipped: this needs miniupnpd"
        exit 0
    fi
    wan=
    internet
    relay
    router ra 1 symmetric
    router rb 2 symmetric
    behind a ra 1
    behind b rb 2
    mapper ra 1 "$1"
    founder a
    await 30 maps a
    say "$(on a netcheck --timeout 0 | grep '^ok *router')"
    on a netcheck --timeout 0 | grep -q "^ok *router.*($2)" || fail "asked in another way"
    pair a b
    on b start --daemon >/dev/null || fail "start"
    await 30 path_is b 'direct-*'
    case $(peer b address) in /ip4/45.0.0.1/*) ;; *) fail "not through the mapped port" ;; esac
    say "direct, at $(peer b address)"
}
maps() { on "$1" netcheck --timeout 0 | grep -q '^ok *router *maps'; }

case_upnp() { mapped upnp upnp; }

case_pcp() { mapped pcp pcp; }

case_natpmp() {
    mapped natpmp nat-pmp
    # Three times as long as the router keeps what is not renewed.
    sleep 12
    maps a || fail "not renewed"
    grep -q expire "$work/mapper.out" && fail "not renewed in time"
    say "renewed $(grep -c renew "$work/mapper.out") times"
    on a stop >/dev/null || fail "stop"
    for kind in udp tcp; do
        grep -q "delete $kind" "$work/mapper.out" || fail "a port ($kind) was not given back"
    done
}

case_relay_restart() {
    wan="5 1 0 8"
    two_behind_nats symmetric symmetric
    await 15 path_is a relayed
    rows a 100 100
    await 20 has_some b
    end_relay
    equal a b && fail "done too soon to show anything"
    sleep 5
    relay
    say "the relay is back"
    await 15 connected a
    say "connected"
    await 60 equal a b
}

case_cable() {
    two_public 5 1 0 8
    # Soon after they met: a way that broke soon must be tried as often as one that lasted.
    (rows a 300 100) &
    importing=$!
    await 20 has_some b
    ip -n "ah$tag-net" link set p11 down
    equal a b && fail "done too soon to show anything"
    say "the cable is pulled, with $(stat_of b commits_received) commits received"
    sleep 60
    connected a && fail "the loss was not noticed"
    before=$(stat_of b commits_received)
    ip -n "ah$tag-net" link set p11 up
    say "and plugged"
    wait "$importing" || fail "import"
    await 10 more_than b "$before"
    say "the sync goes on"
    await 120 equal a b
    twice=$(stat_of b commits_doubled)
    say "$twice commits of 100 KiB came twice"
    # The window in flight: 4 MiB of credit.
    [ "$twice" -le 41 ] || fail "commits were sent again"
}
has_some() { [ "$(stat_of "$1" commits_received)" -gt 20 ]; }
more_than() { [ "$(stat_of "$1" commits_received)" -gt "$2" ]; }

case_address() {
    two_public
    on a put notes n1 title=before >/dev/null
    await 10 holds b n1 before
    moves b 12 99
    on a put notes n1 title=after >/dev/null
    await 15 holds b n1 after
    say "found again at $(peer a address)"
    # And when the other one has to call.
    on b put notes n1 title=back >/dev/null
    await 15 holds a n1 back
}

case_third() {
    internet
    public a 11
    public b 12
    public c 13
    founder a
    pair a b
    on b start --daemon >/dev/null || fail "start"
    pair a c
    on c start --daemon >/dev/null || fail "start"
    await 30 meets c b
    say "all three are connected"
    on c stop >/dev/null || fail "stop"
    # Both move: neither knows where the other is now, but the first one does.
    moves b 12 99
    moves c 13 98
    await 20 meets b a
    on c start --daemon >/dev/null || fail "start"
    await 20 meets c b
    case "$(peer_of c b address) $(peer_of b c address)" in */ip4/45.0.0.9[89]/*) ;; *) fail "not where they moved to" ;; esac
    say "found again through the third one, at $(peer_of c b address)"
}

case_slept() {
    two_public
    on a put notes n1 title=before >/dev/null
    await 10 holds b n1 before
    asleep="$(pid_of a) $(pid_of b)"
    pids="$pids $asleep"
    kill -STOP $asleep
    sleep 60
    kill -CONT $asleep
    on a put notes n1 title=after >/dev/null
    await 10 holds b n1 after
    say "both slept for a minute, and go on"
    kill -STOP "${asleep#* }"
    await 30 not_connected a
    kill -CONT "${asleep#* }"
    on a put notes n1 title=again >/dev/null
    await 10 holds b n1 again
    say "one slept until the other gave it up, and goes on"
}

case_ipv6() {
    internet
    for n in 11 12; do
        [ "$n" = 11 ] && m=a || m=b
        machine "$m"
        cable net "p$n" "$m" wan
        ip -n "ah$tag-net" link set "p$n" master br0
        ip -n "ah$tag-net" link set dev "p$n" type bridge_slave mcast_flood on
        ip -n "ah$tag-$m" addr add "2001:db8:45::$n/64" dev wan nodad
    done
    founder a
    # By the short code: discovery tells where.
    on a device invite --yes --json >"$work/invite.log" 2>&1 &
    pids="$pids $!"
    await 30 grep -q '"code"' "$work/invite.log"
    code=$(sed -n 's/.*"code":"\([^"@]*\)".*/\1/p' "$work/invite.log" | head -1)
    printf '%s\n' "$code" | on b device join --name b >"$work/join.log" 2>&1 || fail "joining by the short code failed"
    on b start --daemon >/dev/null || fail "start"
    await 15 connected a
    await 15 connected b
    rows a 20 50
    await 60 equal a b
    case $(peer b address) in /ip6/2001:db8:45::11/*) ;; *) fail "not over IPv6" ;; esac
    say "2001:db8:45::11 is all that leads there: $(peer b address)"
    on a netcheck --timeout 1 | grep 'addresses of the whole internet' || fail "netcheck"
    on a status | grep fe80 && fail "an address that is of no use"
    # And where there is none.
    within a sysctl -qw net.ipv6.conf.all.disable_ipv6=1
    on a restart >"$work/restart.log" 2>&1 || fail "without IPv6 nothing starts"
    on a netcheck --timeout 1 | grep 'ipv6.*not in use' || fail "netcheck without IPv6"
    grep -h 'this machine has no IPv6' "$work"/a/logs/*.log || fail "the log does not say so"
}

case_dns() {
    internet
    public a 11
    public b 12
    mkdir -p "/etc/netns/ah$tag-b"
    echo "nameserver 127.0.0.1" >"/etc/netns/ah$tag-b/resolv.conf"
    ip netns exec "ah$tag-b" python3 "$here/names.py" first.example 45.0.0.11 >"$work/names.out" 2>&1 &
    pids="$pids $!"
    await 5 grep -q ready "$work/names.out"
    founder a
    pair a b
    on b start --daemon >/dev/null || fail "start"
    await 15 connected b
    place=$(on a status | grep -o '/ip4/45.0.0.11/udp/[0-9]*/quic-v1' | head -1)
    port=${place#/ip4/45.0.0.11/udp/}
    on b peer add "/dns4/first.example/udp/$port" >"$work/add.log" 2>&1 || fail "the name leads nowhere"
    grep -q first.example "$work/names.out" || fail "nobody asked for the name"
    grep -q 'Connected to a at /dns4/first.example' "$work/add.log" || fail "not connected by name"
    say "$(cat "$work/add.log")"
}

case_refused() {
    internet
    # Somebody else's id.
    relay
    id=${relay##*/}
    end_relay
    rm "$work/relay.key"
    relay --allow "$id"
    public a 11
    founder a
    await 15 sh -c "ip netns exec ah$tag-a $program --home $work/a status | grep 'NOT usable'"
    on a doctor >"$work/doctor.log" 2>&1
    grep -A1 'does not serve this device' "$work/doctor.log" || fail "the doctor says nothing"
}

case_mtu() {
    internet
    public a 11
    router rb 2 cone
    behind b rb 2
    founder a
    pair a b
    # A narrow path in between that does not say so.
    ip -n "ah$tag-rb" link set wan mtu 1300
    within rb nft add chain ip filter output '{ type filter hook output priority 0; }'
    within rb nft add rule ip filter output icmp type destination-unreachable drop
    on b start --daemon >/dev/null || fail "start"
    rows b 40 50
    await 90 equal a b
    say "2 MB synced, $(peer b path)"
}

case_one_way() {
    two_public
    within b nft 'add table ip mute; add chain ip mute out { type filter hook output priority 0; };
        add rule ip mute out oifname "wan" drop'
    rows a 40 50
    await 30 not_connected a
    await 30 not_connected b
    say "both noticed"
    within b nft delete table ip mute
    await 30 equal a b
}
not_connected() { [ "$(peer "$1" connected)" = False ]; }
memory_kib() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$1/status"; }

case_stall() {
    two_public
    stopped=$(pid_of b)
    a_pid=$(pid_of a)
    kill -STOP "$stopped"
    pids="$pids $stopped"
    rows a 100 500
    await 40 not_connected a
    # The store's caches fill first.
    rows a 200 500
    before=$(memory_kib "$a_pid")
    rows a 200 500
    after=$(memory_kib "$a_pid")
    say "given up; with 100 MB more written, memory grew from $((before / 1024)) to $((after / 1024)) MiB"
    [ $((after - before)) -lt 32768 ] || fail "memory grows with what the peer does not take"
    [ "$after" -lt 262144 ] || fail "too much memory in all"
    kill -CONT "$stopped"
    await 90 equal a b
}

"case_$name"
say "ok: $name"
