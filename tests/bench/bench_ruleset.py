# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs to load tor-guest's rule set: our loader, bare nft, and ferm, which Tails uses.

The three take turns in one network namespace; ratios are of medians of wall time. Python's start is
not part of it: the firewall step runs in a process that has other work as well. Fails above 1.5
times bare nft. ``python3 -m tests.bench.bench_ruleset``.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tails_profiles.profile import Profile
from tails_profiles.ruleset import render_named
from tails_profiles.system import nft

LIMIT = 1.5
ROUNDS = 30
PRIVATE = "(0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 \
192.168.0.0/16 224.0.0.0/3)"
# The same policy by user, direction and address, as far as ferm has words for it.
FERM = f"""
domain ip table filter {{
    chain INPUT {{
        policy DROP;
        interface lo saddr 127.0.0.0/8 daddr 127.0.0.0/8 ACCEPT;
        proto tcp !syn mod state state NEW DROP;
        interface inner saddr 10.1.2.3 daddr 10.1.2.1 proto tcp
            dport (951 9050 9062 9063 9150) mod conntrack ctdir ORIGINAL ACCEPT;
        interface inner saddr 10.1.2.3 daddr 10.1.2.1 proto udp
            dport (53 5353) mod conntrack ctdir ORIGINAL ACCEPT;
        interface uplink proto tcp mod conntrack ctstate ESTABLISHED ctdir REPLY ACCEPT;
    }}
    chain FORWARD policy DROP;
    chain OUTPUT {{
        policy DROP;
        outerface lo mod owner uid-owner debian-tor ACCEPT;
        outerface inner saddr 10.1.2.1 daddr 10.1.2.3 mod conntrack ctdir REPLY ACCEPT;
        outerface uplink daddr {PRIVATE} DROP;
        outerface uplink proto tcp mod owner uid-owner debian-tor ACCEPT;
    }}
}}
domain ip table nat chain PREROUTING {{
    interface inner daddr 10.64.0.0/10 proto tcp syn REDIRECT to-ports 9040;
}}
domain ip6 table filter {{
    chain (INPUT FORWARD OUTPUT) policy DROP;
}}
"""


def main() -> int:
    """Measure, print, judge; re-executes itself in a network namespace."""
    if os.environ.get("TAILS_PROFILES_BENCH") != "inside":
        environment = {**os.environ, "TAILS_PROFILES_BENCH": "inside"}
        command = ["unshare", "--net", sys.executable, "-m", "tests.bench.bench_ruleset"]
        return subprocess.run(command, env=environment, check=False).returncode
    text = render_named(Profile.TOR_GUEST, "tcp")
    with tempfile.TemporaryDirectory() as name:
        rules, ferm = Path(name) / "rules.nft", Path(name) / "ferm.conf"
        rules.write_text(text)
        ferm.write_text(FERM)
        contenders: dict[str, Callable[[], object]] = {
            "nft -f": lambda: _run("nft", "-f", str(rules)),
            "firewall step": lambda: nft.load(text, "bench"),
            "ferm": lambda: _run("ferm", str(ferm)),
        }
        times = measure(contenders)
    bare = times["nft -f"]
    for contender, seconds in times.items():
        print(f"{contender:14} {seconds * 1000:6.1f} ms  {seconds / bare:5.2f} times nft -f")
    ratio = times["firewall step"] / bare
    print(f"{'passed' if ratio <= LIMIT else 'FAILED'}: {ratio:.2f}, at most {LIMIT}")
    return 0 if ratio <= LIMIT else 1


def measure(contenders: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, load in contenders.items():
            begin = time.perf_counter()
            load()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
