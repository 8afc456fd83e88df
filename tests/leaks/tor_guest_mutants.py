# SPDX-License-Identifier: GPL-3.0-or-later
"""Seeded mistakes in tor-guest's rule sets, each with the probe that must notice it."""

from collections.abc import Iterable

from tests.leaks.probes import Mutant

_TOR_OUT = 'oifname "uplink" meta skuid "debian-tor" ct direction original'
_LO_OUT = 'oif "lo" ip saddr 127.0.0.0/8 ip daddr 127.0.0.0/8 meta skuid "debian-tor"'
_LO_IN = 'iif "lo" ip saddr'
_ESTABLISHED = "ct state established accept\n        "
_CLOSED = "P31 SYN to closed ports"
_FINAL = 'counter drop comment "{}"'
_AFTERWARDS = "P30 what the kernel says after a connection"
_INTRUDER = "P26 an open connection of app-guest, from outside"
_ROOT = "P53 root's frames: "
_INWARDS = "P53 root's frames inwards: "


def _drops(table: str, chain: str, caught: Iterable[tuple[str, str]]) -> tuple[Mutant, ...]:
    """Each of these drop rules, by its comment, counts and lets pass to the next one."""
    return tuple(
        Mutant(f"{table} {chain}: no rule {comment!r}", table,
               f'counter drop comment "{comment}"', f'counter comment "{comment}"',
               probe, after=f"chain {chain} ")
        for comment, probe in caught
    )  # fmt: skip


INET = (
    Mutant("output accepts established", "inet", _LO_OUT, _ESTABLISHED + _LO_OUT, _AFTERWARDS),
    Mutant("input accepts established", "inet", _LO_IN, _ESTABLISHED + _LO_IN, _INTRUDER),
    Mutant("answers to Tor in either direction", "inet",
           'iifname "uplink" ct direction reply', 'iifname "uplink"', _INTRUDER),
    Mutant("anybody calls the internet", "inet", _TOR_OUT, 'oifname "uplink"',
           "P53 SYN of every other user"),
    Mutant("Tor calls private ranges", "inet", "meta l4proto tcp ip daddr @public",
           "meta l4proto tcp", "P53 SYN of its own user to private ranges"),
    Mutant("a hole in the private ranges", "inet", "elements = { 1.0.0.0-9.255.255.255,",
           "elements = { 1.0.0.0-10.255.255.255,", "P53 SYN of its own user to private ranges"),
    Mutant("Tor sends anything", "inet", "meta l4proto tcp ip daddr @public",
           "ip daddr @public", "P53 UDP of its own user"),
    Mutant("output lets the rest pass", "inet", 'counter drop comment "out"',
           'counter accept comment "out"', "P53 UDP of every other user"),
    Mutant("input lets the rest pass", "inet", 'counter drop comment "in"',
           'counter accept comment "in"', _CLOSED),
    Mutant("forward lets the rest pass", "inet", 'counter drop comment "forward"',
           'counter accept comment "forward"', "P1 SYN to the internet"),
    Mutant("SOCKS for any source", "inet", 'iifname "inner" ip saddr 10.1.2.3 ip daddr 10.1.2.1',
           'iifname "inner" ip daddr 10.1.2.1', "P26 source on the internet, to an open port",
           after="chain input"),
    Mutant("SOCKS on any link", "inet", 'iifname "inner" ip saddr', "ip saddr",
           "P26 app-guest's address, from outside", after="chain input"),
    Mutant("any port of tor-guest", "inet",
           "tcp dport { 9050, 9062, 9063, 9150, 951 } counter accept",
           "meta l4proto tcp counter accept", _CLOSED),
    Mutant("TransPort without redirection", "inet", "ct status dnat ", "", _CLOSED),
    Mutant("any UDP port of tor-guest", "inet", "udp dport { 53, 5353 } counter accept",
           "meta l4proto udp counter accept", "P32 UDP to closed ports"),
    Mutant("tor-guest calls app-guest", "inet",
           "ct direction reply ct state established meta l4proto {", "meta l4proto {",
           "P53 calls to app-guest", after="chain output"),
    Mutant("anybody over lo", "inet", _LO_OUT, _LO_OUT.partition(" meta")[0],
           "P53 SYN of other users over lo"),
)  # fmt: skip

INNER = (
    *_drops("inner", "ingress", (
        ("source MAC", "P43 another source MAC, to an open port"),
        ("destination MAC", "P42 SYN to other destination MACs"),
        ("IP options", "P27 IP options to an open port"),
        ("fragment", "P28 first fragment of a SYN to an open port"),
        ("source address", "P26 source on the internet, to an open port"),
    )),
    *_drops("inner", "egress", (
        ("source MAC", _INWARDS + "other MACs"),
        ("destination MAC", _INWARDS + "other MACs"),
        ("IP options", _INWARDS + "IP options"),
        ("destination address", _INWARDS + "to another address"),
        ("call from the gateway", _INWARDS + "a call"),
    )),
    Mutant("inner egress lets the rest pass", "inner", 'counter drop comment "out"',
           'counter accept comment "out"', _INWARDS + "answers of closed ports"),
    Mutant("inner ingress lets the rest pass", "inner", 'counter drop comment "in"',
           'counter accept comment "in"', "P32 UDP to closed ports"),
)  # fmt: skip

UPLINK = (
    *_drops("uplink", "ingress", (
        ("destination MAC", "P54 TCP to other destination MACs"),
        ("IP options", "P54 IP options from the internet"),
        ("fragment", "P54 fragments from the internet"),
        ("destination address", "P54 packets for other addresses"),
        ("call from outside", "P54 SYN from the internet"),
        ("private ranges", "P54 packets of private sources"),
    )),
    *_drops("uplink", "egress", (
        ("source MAC", _ROOT + "another source MAC"),
        ("group MAC", _ROOT + "TCP to a group MAC"),
        ("IP options", _ROOT + "IP options"),
        ("fragment", _ROOT + "fragments"),
        ("source address", _ROOT + "sources of inner links, and others"),
        ("private ranges", _ROOT + "to private ranges"),
    )),
    Mutant("uplink egress lets the rest pass", "uplink", 'counter drop comment "out"',
           'counter accept comment "out"', _ROOT + "UDP"),
    Mutant("uplink ingress lets the rest pass", "uplink", 'counter drop comment "in"',
           'counter accept comment "in"', "P54 SCTP, ICMP, GRE, IGMP of the internet"),
    Mutant("ARP with anybody", "uplink", "arp saddr ip 10.0.2.2 ", "", "P54 odd ARP"),
    Mutant("ARP with another's MAC", "uplink", "arp saddr ether 00:55:44:33:22:21 ", "",
           _ROOT + "ARP for others, claims, probes"),
    Mutant("ARP for anybody", "uplink", "arp daddr ip 10.0.2.2 ", "",
           _ROOT + "ARP for others, claims, probes"),
)  # fmt: skip

PROXY = (
    Mutant("anybody calls the proxy", "inet",
           _TOR_OUT + " ct state new,established ip daddr . tcp dport @proxy",
           "ip daddr . tcp dport @proxy", "P53 other users to the proxy"),
    Mutant("any port of the proxy", "uplink", "ip daddr . tcp dport @proxy counter accept",
           "ip daddr 192.168.0.9 tcp dport 1-65535 counter accept",
           "P53 Tor to another port of the proxy"),
)  # fmt: skip

DNS = (
    Mutant("anybody asks the resolver", "inet",
           _TOR_OUT + " ct state new,established ip daddr 10.0.2.3", "ip daddr 10.0.2.3",
           "P53 other users to the resolver"),
    Mutant("Tor asks any resolver", "inet", "ip daddr 10.0.2.3 udp dport 53", "udp dport 53",
           "P53 Tor to other resolvers"),
    Mutant("the resolver's answers without a question", "inet",
           "ip saddr 10.0.2.3 ct direction reply ct state established udp", "ip saddr 10.0.2.3 udp",
           "P54 the resolver's answers to no question"),
    Mutant("every port of the resolver", "uplink", "ip daddr 10.0.2.3 udp dport 53",
           "ip daddr 10.0.2.3 udp dport 1-65535", "P53 Tor to other ports of the resolver"),
)  # fmt: skip

UDP = (
    Mutant("anybody sends UDP", "inet",
           _TOR_OUT + " ct state new,established meta l4proto udp", "meta l4proto udp",
           "P53 UDP of every other user"),
    Mutant("UDP to private ranges", "inet", "meta l4proto udp ip daddr @public",
           "meta l4proto udp", "P53 UDP of its own user to private ranges and groups"),
    Mutant("UDP from anybody", "inet",
           'iifname "uplink" ct direction reply ct state established meta l4proto udp',
           'iifname "uplink" meta l4proto udp', "P54 datagrams nobody asked for"),
)  # fmt: skip

TRANSPARENT = (
    Mutant("transparent TCP to private ranges", "inner", "ip daddr != @public counter drop comment",
           "ip daddr != @public counter comment", "P46 the other gateway's inner address"),
    Mutant("any transparent UDP", "inner", "udp dport 53 counter accept",
           "meta l4proto udp counter accept", "P5 NTP"),
)  # fmt: skip
