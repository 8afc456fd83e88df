# SPDX-License-Identifier: GPL-3.0-or-later
"""What is outside of the machines: private networks of Tor and I2P, and a namespace before them."""

import os
import subprocess
from pathlib import Path

from tests.lab.i2pnet import I2pNetwork
from tests.lab.tornet import TorNetwork, run
from tests.vm import image


class World:
    """``namespace`` is where gateways' machines run; ``letter`` tells worlds at one time apart.

    With ``i2p`` there are I2P's routers too, which are the image's own program.
    """

    def __init__(self, directory: Path, letter: str, *, i2p: bool = False) -> None:
        prefix = f"tp{letter}{os.getpid()}"
        self.network = TorNetwork(directory / "network", prefix)
        self.i2p = (
            I2pNetwork(directory / "i2p", f"{prefix}i", image.program("usr/bin/i2pd"))
            if i2p
            else None
        )
        self.namespace = f"{prefix}uplink"

    def start(self) -> None:
        """The network, and the namespace with its link."""
        self.network.start()
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        self.network.attach(
            self.namespace, "out", "02:00:00:00:00:09", "198.18.0.2/30", "198.18.0.1"
        )
        if self.i2p is not None:
            self.i2p.start()
            self.i2p.attach(self.namespace, "198.18.2.2", "198.18.2.1")

    def close(self) -> None:
        """Everything, however far it came."""
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False, capture_output=True)
        self.network.close()
        if self.i2p is not None:
            self.i2p.close()
