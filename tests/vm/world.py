# SPDX-License-Identifier: GPL-3.0-or-later
"""What is outside of the machines: a private Tor network, and a namespace that leads to it."""

import os
import subprocess
from pathlib import Path

from tests.lab.tornet import TorNetwork, run


class World:
    """``namespace`` is where gateways' machines run; ``letter`` tells worlds at one time apart."""

    def __init__(self, directory: Path, letter: str) -> None:
        prefix = f"tp{letter}{os.getpid()}"
        self.network = TorNetwork(directory / "network", prefix)
        self.namespace = f"{prefix}uplink"

    def start(self) -> None:
        """The network, and the namespace with its link."""
        self.network.start()
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        self.network.attach(
            self.namespace, "out", "02:00:00:00:00:09", "198.18.0.2/30", "198.18.0.1"
        )

    def close(self) -> None:
        """Everything, however far it came."""
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False, capture_output=True)
        self.network.close()
