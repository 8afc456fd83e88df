# SPDX-License-Identifier: GPL-3.0-or-later
"""What a local port costs: a stream through it, as a part of the same stream without it.

Through a real circuit of a private Tor network, and, to show the port alone, from a plain TCP
server. Runs of both kinds alternate; the ratio is that of their medians. ``python3 -m
tests.bench.bench_ports`` prints both and fails below 0.95 for the circuit.
"""

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from tests.lab.ports import Guests
from tests.lab.tornet import WEB, TorNetwork

LIMIT = 0.95
RUNS = 7
CIRCUIT_MIB, RAW_MIB = 24, 512

SERVER = """
import socket, sys
data = bytes(1 << 20)
server = socket.create_server(("10.1.2.1", 9062), backlog=64)
print("listening", flush=True)
while True:
    peer, _ = server.accept()
    with peer:
        for _ in range(int(sys.argv[1])):
            peer.sendall(data)
"""
CLIENT = """
import socket, sys, time
begin = time.perf_counter()
with socket.create_connection((sys.argv[1], 9062)) as peer:
    got = 0
    while data := peer.recv(1 << 20):
        got += len(data)
print(got / (time.perf_counter() - begin))
"""


def through_tor(guests: Guests, address: str) -> float:
    """Bytes a second of one file over SOCKS."""
    done = guests.execute(
        guests.app, "curl", "--silent", "--fail", "--output", "/dev/null", "--write-out",
        "%{speed_download}", "--socks5-hostname", f"{address}:9050", f"http://{WEB}/file",
        timeout=300,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"curl: status {done.returncode}: {done.stderr}")
    return float(done.stdout)


def raw(guests: Guests, address: str) -> float:
    """Bytes a second of a plain TCP stream."""
    done = guests.execute(guests.app, sys.executable, "-c", CLIENT, address, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def main() -> int:
    """Measure, print, judge."""
    directory = Path(tempfile.mkdtemp(prefix="tp-bench-", dir="/dev/shm"))
    directory.chmod(0o755)
    network = TorNetwork(directory / "network", "tpb")
    guests = Guests(directory / "guests")
    try:
        network.start()
        with (directory / "network/page/file").open("wb") as file:
            file.truncate(CIRCUIT_MIB << 20)
        guests.load_rules()
        guests.connect(network)
        guests.start_tor(network)
        guests.open_port(9050)
        through_tor(guests, "10.1.2.1")
        runs = [
            (through_tor(guests, "127.0.0.1"), through_tor(guests, "10.1.2.1")) for _ in range(RUNS)
        ]
        circuit = report("a circuit of real relays", runs)
    finally:
        guests.close()
        network.close()
        shutil.rmtree(directory)
    measure_raw()
    verdict = "passed" if circuit >= LIMIT else "FAILED"
    print(f"{verdict}: {circuit:.2f} through a circuit, at least {LIMIT}")
    return 0 if circuit >= LIMIT else 1


def measure_raw() -> None:
    """The same without Tor in between."""
    directory = Path(tempfile.mkdtemp(prefix="tp-bench-", dir="/dev/shm"))
    guests = Guests(directory)
    try:
        guests.load_rules()
        server = guests.start(guests.tor, sys.executable, "-c", SERVER, str(RAW_MIB), stdout=-1)
        assert server.stdout is not None
        server.stdout.readline()
        guests.open_port(9062)
        report("plain TCP", [(raw(guests, "127.0.0.1"), raw(guests, "10.1.2.1")) for _ in range(3)])
    finally:
        guests.close()
        shutil.rmtree(directory)


def report(what: str, runs: list[tuple[float, float]]) -> float:
    """Print the medians; returns their ratio."""
    port, direct = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"{what}: {port / 1e6:.1f} MB/s by the local port, {direct / 1e6:.1f} MB/s without it: "
          f"{port / direct:.2f}", flush=True)  # fmt: skip
    return port / direct


if __name__ == "__main__":
    sys.exit(main())
