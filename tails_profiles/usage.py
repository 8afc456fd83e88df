# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of ``--help``. The manual page, debian/tails-profiles.1, says the same at length."""

from collections.abc import Mapping
from dataclasses import dataclass

DESCRIPTION = """\
One live image, several virtual machines. A string that the hypervisor puts into a DMI
field makes a boot of an unmodified image tor-guest, i2p-guest or app-guest; without it
the image boots as always.
"""

EXIT_STATUS = """\
exit status:
  0 done                3 detection: the DMI fields         6 a system command failed
  1 another failure     4 settings                          7 launch of a guest
  2 usage               5 rule set                        130 interrupted
"""

OVERVIEW = """\
to begin with:
  tails-profiles token tor-guest      the string, and what else a machine of yours needs
  tails-profiles detect               what this machine's DMI fields select, and why
  tails-profiles status               what this boot has become

'tails-profiles COMMAND --help' explains a command, tails-profiles(1) all of them.

"""


@dataclass(frozen=True, slots=True)
class Help:
    """One command: ``summary`` for the list of all, ``text`` and ``examples`` for its own page.

    An example is a command line and what it is for.
    """

    summary: str
    text: str
    examples: tuple[tuple[str, str], ...] = ()

    def epilog(self) -> str:
        """Everything below the options."""
        lines = [line for call, why in self.examples for line in (f"  # {why}", f"  {call}")]
        shown = "examples:\n" + "\n".join(lines) + "\n\n" if lines else ""
        return shown + EXIT_STATUS


COMMANDS: Mapping[str, Help] = {
    "detect": Help(
        "say what the DMI fields select, and why",
        """\
Read the DMI fields bios_vendor, product_serial and chassis_asset_tag and say which
profile they select, and why. Changes nothing.

The serial number is for root alone. Without root the answer is what this boot recorded;
where nothing was recorded the exit status is 3.
""",
        (
            ("tails-profiles detect", "what am I?"),
            ("tails-profiles detect --json | jq -r .profile", "for a program"),
            (
                "tails-profiles detect --sysfs /tmp/tree",
                "what would /tmp/tree/class/dmi/id/bios_vendor select?",
            ),
        ),
    ),
    "list": Help(
        "list the profiles",
        "List the profiles: what chooses each, and what it is.\n",
        (("tails-profiles list", "every profile"),),
    ),
    "show": Help(
        "show one profile",
        """\
Show one profile: what chooses it, its systemd target, its links with their addresses,
the variants of its rule set, and the units of the image that it holds back.
""",
        (
            ("tails-profiles show tor-guest", "the Tor gateway"),
            (
                "tails-profiles show app-guest --json | jq -r '.links[].mac'",
                "the MACs that its network cards must have",
            ),
        ),
    ),
    "render": Help(
        "print a rule set, the very bytes that ship",
        """\
Print a rule set in nft(8)'s language, rendered from its template: the very bytes that
ship in /usr/lib/tails-profiles/rulesets. Changes nothing.
""",
        (
            ("tails-profiles render app-guest", "who may send what in app-guest"),
            (
                "tails-profiles render tor-guest --variant tcp-dns --link uplink",
                "the frames of a gateway's uplink, with bridges that need DNS",
            ),
            (
                "tails-profiles render tor-guest | unshare -rn nft -c -f -",
                "does this machine's nft take it?",
            ),
        ),
    ),
    "apply": Help(
        "do what the boot units do: rule set, then links",
        """\
Select the profile, load its rule set, and raise its links: what the boot units run. Needs
root, and the profile's target must be active or starting. Without a token it does
nothing. When a step fails it says which and why, and every link stays down.
""",
        (
            ("tails-profiles apply --dry-run", "every step, as lines for a root shell"),
            ("tails-profiles apply", "carry them out"),
        ),
    ),
    "status": Help(
        "say what this boot has become",
        """\
Say what this boot has become: profile, how far its boot steps came, its rule set and
whether the kernel has it, links, Tor's progress, target, and what went wrong.
Only root sees whether the rule set is in force, and may ask Tor.
""",
        (
            ("tails-profiles status", "for people"),
            ("tails-profiles status --json | jq .tor.percent", "for a program"),
        ),
    ),
    "check": Help(
        "try to get out of this guest, and report each attempt",
        """\
Self-test from inside a guest: try to get out in every way that its rules must stop, and
report each attempt. OUT: it was answered. LEFT: it was on the wire. stopped: it was
not. silent: without root nobody can watch the wire. Nobody out there is contacted: the
addresses are those of documentation and of private ranges. The exit status is 0 only if
it is shown that nothing got out, which takes root, and Tor's port answers in app-guest.
""",
        (
            ("tails-profiles check", "as root, in app-guest"),
            ("tails-profiles check --json | jq .passed", "for a program"),
        ),
    ),
    "token": Help(
        "what a virtual machine of your own must be given",
        """\
Without --hypervisor: the string that makes a machine this guest, where it goes, and the
network cards it must have. With it: the whole recipe, each line with the leak that it
closes: identity, links, clocks, and every channel to the host that must be off.
""",
        (
            ("tails-profiles token tor-guest", "the least, for every hypervisor"),
            (
                "tails-profiles token tor-guest --hypervisor virtualbox --vm Gateway",
                "VBoxManage commands that make the machine 'Gateway' a Tor gateway",
            ),
            (
                "tails-profiles token app-guest --hypervisor libvirt >app.xml",
                "a domain for virsh define",
            ),
        ),
    ),
    "host": Help(
        "run the guests on this machine, in QEMU or VirtualBox",
        """\
Run tor-guest and app-guest, and i2p-guest where it is asked for, as virtual machines of
this host from one image. Each gateway's uplink is plugged in only once the gateway has
said that its rules are in force.
""",
    ),
    "host plan": Help(
        "print every command that start would run",
        "Print every command that 'host start' would run, for a root shell. Changes nothing.\n",
        (
            ("tails-profiles host plan --image live.iso", "read it first"),
            ("tails-profiles host plan --image live.iso --format json", "for a program"),
        ),
    ),
    "host start": Help(
        "start the gateways, then app-guest",
        """\
Start the gateways, wait until they are ready, then start app-guest. When anything fails,
and at Ctrl-C, everything that was started is stopped. Needs root.
""",
        (
            ("tails-profiles host start --image live.iso", "Tor and a desktop"),
            (
                "tails-profiles host start --image live.iso --settings my.json --i2p",
                "with bridges, language, keyboard (see settings.md) and I2P",
            ),
            ("tails-profiles host start --image live.iso --hypervisor virtualbox", "in VirtualBox"),
            (
                "tails-profiles host start --image live.iso --share SSHClient=$HOME/keys:ro",
                "lend app-guest your keys, read-only (see shares.md)",
            ),
        ),
    ),
    "host stop": Help(
        "power everything off; leaves nothing behind",
        "Press every guest's power button, app-guest's first, and leave nothing behind. Needs\n"
        "root. Harmless when nothing runs.\n",
        (("tails-profiles host stop", "switch it all off"),),
    ),
    "host status": Help(
        "say what runs",
        "Say which guests were started here, and whether they run.\n",
        (("tails-profiles host status --json", "for a program"),),
    ),
    "host show": Help(
        "draw a running guest's screen",
        """\
Write a picture (PNG) of what a guest's screen shows now to standard output: tor-guest's
text screen, with Tor's progress, above all. It is drawn by the guest's hypervisor, as
its user, and what leaves here is checked and written anew, so that nothing but pixels
reaches your viewer. Needs root.
""",
        (
            ("tails-profiles host show tor-guest >tor-guest.png", "how far is Tor?"),
            ("tails-profiles host show tor-guest --json | jq -r .png | base64 -d", "for a program"),
            ("tails-profiles host show tor-guest --dry-run", "what draws it, for a root shell"),
        ),
    ),
    "host audit": Help(
        "compare a virtual machine of your own with its recipe",
        """\
Read a virtual machine of VirtualBox, libvirt or QEMU, and name every setting that is not
as 'token' prints it, each with what it opens, the worst first: network (a way past the
gateways), channel (something between guest and host), unknown (nobody's recipe has it),
identity (what the guest learns of this host). Changes nothing. Which guest it should be
its token says, or --profile. A machine of QEMU is found while it runs. The exit status
is 0 only if nothing deviates, and 1 if something does.
""",
        (
            ("tails-profiles host audit Gateway", "whatever it is a machine of"),
            (
                "tails-profiles host audit Gateway --hypervisor virtualbox --json",
                "for a program",
            ),
        ),
    ),
}
