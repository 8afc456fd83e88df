# SPDX-License-Identifier: GPL-3.0-or-later
"""What the DMI fields may say, and what each must select.

Every expected answer here was written by hand from the table of profiles and tokens in the
documentation, before either classifier existed. A value is the content of the field without the
one newline that the kernel adds; ``Raw`` is a content taken as it is. Nothing in this file is
computed by the code under test.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Raw:
    """The whole content of a field's file, newline or not."""

    content: bytes


@dataclass(frozen=True)
class Special:
    """Something other than a readable regular file: absent, directory, dangling, fifo."""

    kind: str


Value = bytes | Raw | Special

ABSENT = Special("absent")
DIRECTORY = Special("directory")
DANGLING = Special("dangling")
FIFO = Special("fifo")

# No guest's token and nothing of ours: the image boots as always.
HARMLESS: tuple[bytes, ...] = (
    b"",
    b" ",
    b"   ",
    b"\t",
    b"0",
    b"1",
    b"None",
    b"N/A",
    b"Not Specified",
    b"Default string",
    b"To Be Filled By O.E.M.",
    b"System Serial Number",
    b"SeaBIOS",
    b"QEMU",
    b"EDK II",
    b"innotek GmbH",
    b"VirtualBox",
    b"VMware, Inc.",
    b"VMware-56 4d 3c 2a 11 22 33 44-55 66 77 88 99 aa bb cc",
    b"Phoenix Technologies LTD",
    b"American Megatrends Inc.",
    b"American Megatrends International, LLC.",
    b"Insyde Corp.",
    b"LENOVO",
    b"Dell Inc.",
    b"HP",
    b"Hewlett-Packard",
    b"Apple Inc.",
    b"coreboot",
    b"Xen",
    b"Google",
    b"Amazon EC2",
    b"Microsoft Corporation",
    b"ASUSTeK COMPUTER INC.",
    b"GIGABYTE",
    b"PF1ABCDE",
    b"CZC1234567",
    b"............",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xfe",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\x81\x82\x83\x84\x85\x86\x87\x88",
    b"\x81",
    b"\x88\x81",
    b"\x1b[31mred\x1b[0m",
    b"a\nb",
    b"a\n",
    b"\n",
    b"\n\n\n",
    b"a\n\nb",
    b"\\",
    b"\\n",
    b"\\0",
    b"'",
    b'"',
    b"''",
    b"`id`",
    b"$(id)",
    b"${IFS}",
    b"$PATH",
    b"*",
    b"?",
    b"[a-z]",
    b"[",
    b"]",
    b"!",
    b"~",
    b"-n",
    b"-e",
    b"--",
    b"%s",
    b"%d%n",
    b"#",
    b";",
    b"&",
    b"|",
    b"<",
    b">",
    b"(",
    b"tails",
    b"Tails",
    b"profile",
    b"tor-guest",
    b"i2p-guest",
    b"app-guest",
    b"quarantine",
    b"normal",
    b"host",
    b"tails profile",
    b"tails profile:tor-guest",
    b"tails_profile:tor-guest",
    b"tailsprofile:tor-guest",
    b"tails--profile:tor-guest",
    b"tails-profil",
    b"ails-profile:tor-guest",
    b"tails-rofile:tor-guest",
    b"tail-profile:tor-guest",
    b"tails-\nprofile:tor-guest",
    b"tails\n-profile:tor-guest",
    b"tails-prof",
    b"profile-tails:tor-guest",
    b"eliforp-sliat",
    b"t\xc3\xa4ils-profile:tor-guest",
    # Letters that look like ours and are not: the word is not there.
    "tаils-profile:tor-guest".encode(),  # noqa: RUF001 - Cyrillic a
    "tails-рrofile:tor-guest".encode(),  # noqa: RUF001 - Cyrillic er
    "tails‐profile:tor-guest".encode(),  # noqa: RUF001 - hyphen U+2010
    "tails‑profile:tor-guest".encode(),  # noqa: RUF001 - no-break hyphen U+2011
    "tails–profile:tor-guest".encode(),  # noqa: RUF001 - en dash
    "tails−profile:tor-guest".encode(),  # noqa: RUF001 - minus sign
    "tails\u00adprofile:tor-guest".encode(),  # soft hyphen
    "taıls-profile:tor-guest".encode(),  # noqa: RUF001 - dotless i
    "TAİLS-PROFILE:tor-guest".encode(),  # capital dotted I
    "taiſs-profile:tor-guest".encode(),  # noqa: RUF001 - long s
    "tail\u017f-profile:tor-guest".encode(),
    "ｔails-profile:tor-guest".encode(),  # noqa: RUF001 - full width t
    "t\u200bails-profile:tor-guest".encode(),  # zero width space
    "tails-\u200bprofile:tor-guest".encode(),
    "tails\u0301-profile:tor-guest".encode(),  # combining accent
    "tails-pro\ufb01le:tor-guest".encode(),  # ligature fi
    b"ta\x81ils-profile:tor-guest",
    b"tails\x82-profile:tor-guest",
    b"tails-\x88profile:tor-guest",
    b"tails-pro\\file:tor-guest",
    b"tails-prof?le:tor-guest",
    b"tails-*",
    b"[t]ails-profile:tor-guest",
    b"t\tails-profile",
    b"x" * 63,
    b"x" * 64,
    b"x" * 255,
    b"x" * 256,
    b"x" * 1000,
    b"x" * 4094,
    b"\n" * 4094,
    b"x\n" * 2000,
)

# The word in any case, in anything but an exact token: refused, in whichever field it stands.
MALFORMED: tuple[bytes, ...] = (
    b"tails-profile",
    b"tails-profile:",
    b"tails-profile: ",
    b"tails-profiles",
    b"tails-profile-tor-guest",
    b"tails-profile=tor-guest",
    b"tails-profile;tor-guest",
    b"tails-profile tor-guest",
    b"tails-profile.tor-guest",
    b"tails-profile/tor-guest",
    b"tails-profile::tor-guest",
    b"tails-profile:tor",
    b"tails-profile:i2p",
    b"tails-profile:app",
    b"tails-profile:tor-gest",
    b"tails-profile:tor-guess",
    b"tails-profile:tor-gues",
    b"tails-profile:tor-guestt",
    b"tails-profile:tor-guests",
    b"tails-profile:tor-guest2",
    b"tails-profile:tor_guest",
    b"tails-profile:torguest",
    b"tails-profile:or-guest",
    b"tails-profile:-guest",
    b"tails-profile:guest",
    b"tails-profile:i2p-gues",
    b"tails-profile:i2pd-guest",
    b"tails-profile:I2P-guest",
    b"tails-profile:i2p-guest.",
    b"tails-profile:app-gues",
    b"tails-profile:apps-guest",
    b"tails-profile:app-guest,",
    b"tails-profile:normal",
    b"tails-profile:host",
    b"tails-profile:quarantine",
    b"tails-profile:none",
    b"tails-profile:0",
    b"tails-profile:1",
    b"tails-profile:true",
    b"tails-profile:whonix",
    b"tails-profile:tor-guest:app-guest",
    b"tails-profile:tor-guest,app-guest",
    b"tails-profile:tor-guest tails-profile:tor-guest",
    b"tails-profile:tor-guesttails-profile:tor-guest",
    b"tails-profile:tails-profile:tor-guest",
    # Case.
    b"Tails-profile:tor-guest",
    b"tails-Profile:tor-guest",
    b"TAILS-PROFILE:TOR-GUEST",
    b"TAILS-PROFILE:tor-guest",
    b"tails-profile:TOR-GUEST",
    b"tails-profile:Tor-Guest",
    b"tails-profile:tor-Guest",
    b"tails-profile:tor-guesT",
    b"tails-profilE:tor-guest",
    b"tAiLs-PrOfIlE:app-guest",
    b"Tails-Profile",
    b"TAILS-PROFILE",
    b"tails-profile:App-guest",
    b"tails-profile:app-guesT",
    b"tails-profile:i2P-guest",
    # Blanks.
    b" tails-profile:tor-guest",
    b"  tails-profile:tor-guest",
    b"tails-profile:tor-guest ",
    b"tails-profile:tor-guest  ",
    b" tails-profile:tor-guest ",
    b"\ttails-profile:tor-guest",
    b"tails-profile:tor-guest\t",
    b"tails-profile: tor-guest",
    b"tails-profile :tor-guest",
    b"tails-profile:tor -guest",
    b"tails-profile:tor- guest",
    b"tails-profile:tor guest",
    b"tails-profile:tor-guest\r",
    b"\rtails-profile:tor-guest",
    b"tails-profile:tor-guest\x0b",
    b"tails-profile:tor-guest\x0c",
    b"tails-profile:tor-guest\xa0",
    b"\xc2\xa0tails-profile:tor-guest",
    b"tails-profile:tor-guest\xc2\xa0",
    b"tails-profile:app-guest ",
    b" tails-profile:app-guest",
    b"tails-profile:i2p-guest ",
    b" tails-profile:i2p-guest",
    # More than one line: the first alone would be a token.
    b"tails-profile:tor-guest\n",
    b"tails-profile:tor-guest\n\n",
    b"tails-profile:tor-guest\nX=1",
    b"tails-profile:tor-guest\ntails-profile:tor-guest",
    b"tails-profile:tor-guest\ntails-profile:app-guest",
    b"tails-profile:app-guest\n ",
    b"tails-profile:i2p-guest\n\x01",
    b"\ntails-profile:tor-guest",
    b"\n\ntails-profile:app-guest",
    b"X=1\ntails-profile:tor-guest",
    b"SeaBIOS\ntails-profile:tor-guest",
    b"SeaBIOS\nsee tails-profile",
    b"a\nb\nc\nd\ntails-profile:i2p-guest",
    b"tails-profile:tor-\nguest",
    b"tails-profile:\ntor-guest",
    b"tails-profile\n:tor-guest",
    # Control and other bytes beside or inside.
    b"\x01tails-profile:tor-guest",
    b"tails-profile:tor-guest\x01",
    b"tails-profile:tor\x01-guest",
    b"tails-profile:tor-guest\x7f",
    b"tails-profile:tor-guest\x1b",
    b"\x1b[2Jtails-profile:tor-guest",
    b"tails-profile:tor-guest\x1b[8m",
    b"tails-profile:tor-guest\x08",
    b"tails-profile:tor-guesx\x08t",
    b"tails-profile:tor-guest\x80",
    b"tails-profile:tor-guest\x81",
    b"tails-profile:tor-guest\x82",
    b"tails-profile:tor-guest\x83",
    b"tails-profile:tor-guest\x84",
    b"tails-profile:tor-guest\x85",
    b"tails-profile:tor-guest\x86",
    b"tails-profile:tor-guest\x87",
    b"tails-profile:tor-guest\x88",
    b"\x81tails-profile:tor-guest",
    b"\x82tails-profile:tor-guest",
    b"\x88tails-profile:tor-guest",
    b"tails-profile:\x81tor-guest",
    b"tails-profile:\x88tor-guest",
    b"tails-profile\x83:tor-guest",
    b"tails-profile:tor-guest\xff",
    b"\xfftails-profile:tor-guest",
    b"\xff\xfetails-profile:tor-guest",
    b"\xef\xbb\xbftails-profile:tor-guest",
    b"tails-profile:t\xc3\xb6r-guest",
    b"tails-profile:tor-guest\xc3",
    b"tails-profile:tor-gue\xc3\x9ft",
    # Look-alikes after the word: the word is there, so it is ours and wrong.
    "tails-profile:tоr-guest".encode(),  # noqa: RUF001 - Cyrillic o
    "tails-profile:tor‐guest".encode(),  # noqa: RUF001 - hyphen U+2010
    "tails-profile：tor-guest".encode(),  # noqa: RUF001 - full width colon
    "tails-profileː tor-guest".encode(),  # noqa: RUF001 - modifier colon
    "tails-profile:tor-gueſt".encode(),  # noqa: RUF001 - long s
    "tails-profile:ａpp-guest".encode(),  # noqa: RUF001 - full width a
    "tails-profile:і2p-guest".encode(),  # noqa: RUF001 - Cyrillic i
    "tails-profile:tor-guest\u200b".encode(),
    "\u200btails-profile:tor-guest".encode(),
    "tails-profile:tor-guest\u2028".encode(),
    "\u202etails-profile:tor-guest".encode(),
    # What a shell could stumble over.
    b"'tails-profile:tor-guest'",
    b'"tails-profile:tor-guest"',
    b"`tails-profile:tor-guest`",
    b"$(tails-profile:tor-guest)",
    b"${tails-profile:tor-guest}",
    b"tails-profile:$(echo tor-guest)",
    b"tails-profile:`echo tor-guest`",
    b"tails-profile:$PROFILE",
    b"tails-profile:tor-guest;reboot",
    b"tails-profile:tor-guest&",
    b"tails-profile:tor-guest|sh",
    b"tails-profile:tor-guest #",
    b"#tails-profile:tor-guest",
    b"tails-profile:tor-guest\\",
    b"\\tails-profile:tor-guest",
    b"tails-profile:tor\\-guest",
    b"tails-profile:tor-guest\\n",
    b"tails-profile:tor-guest\\c",
    b"tails-profile:*",
    b"tails-profile:*-guest",
    b"tails-profile:tor-gues?",
    b"tails-profile:tor-gues[t]",
    b"tails-profile:[a-z]*",
    b"*tails-profile:tor-guest*",
    b"tails-profile:{tor,app}-guest",
    b"tails-profile:tor-guest)",
    b"(tails-profile:tor-guest",
    b"-tails-profile:tor-guest",
    b"--tails-profile:tor-guest",
    b"-n tails-profile:tor-guest",
    b"=tails-profile:tor-guest",
    b"tails-profile:tor-guest=",
    b"tails-profile:%s",
    b"tails-profile:tor-guest%00",
    b"tails-profile:tor-guest%0a",
    b"tails-profile:../tor-guest",
    b"tails-profile:/etc/passwd",
    b"tails-profile:tor-guest/",
    b"tails-profile:tor-guest.target",
    b"!tails-profile:tor-guest",
    b"~tails-profile:tor-guest",
    # The settings tag belongs to the chassis alone.
    b"tails-profiles-settings:1",
    b"tails-profiles-settings:2",
    b"tails-profiles-settings",
    # Inside something longer.
    b"string:tails-profile:tor-guest",
    b"vendor=tails-profile:tor-guest",
    b"x tails-profile:tor-guest",
    b"xtails-profile:tor-guest",
    b"tails-profile:tor-guestx",
    b"QEMU (tails-profile)",
    b"tails-profile:tor-guest" + b"x" * 1000,
    b"x" * 1000 + b"tails-profile:tor-guest",
    b"x" * 233 + b"tails-profile:tor-guest",
    b"tails-profile:tor-guest" + b" " * 233,
    b"tails-profile:tor-guest" + b"\n" * 233,
    b" " * 4071 + b"tails-profile:tor-guest",
    b"\n" * 4071 + b"tails-profile:tor-guest",
    b"tails-profile:tor-guest" + b" " * 4071,
    b"x" * 4081 + b"tails-profile",
)

# The chassis' asset tag: the word in it, and not the one value that it may have.
MALFORMED_TAGS: tuple[bytes, ...] = (
    b"tails-profile:tor-guest",
    b"tails-profile:i2p-guest",
    b"tails-profile:app-guest",
    b"tails-profile",
    b"tails-profiles",
    b"tails-profiles-settings",
    b"tails-profiles-settings:",
    b"tails-profiles-settings:0",
    b"tails-profiles-settings:2",
    b"tails-profiles-settings:10",
    b"tails-profiles-settings:01",
    b"tails-profiles-settings:11",
    b"tails-profiles-settings: 1",
    b" tails-profiles-settings:1",
    b"tails-profiles-settings:1 ",
    b"tails-profiles-settings:1\t",
    b"tails-profiles-settings:1\r",
    b"tails-profiles-settings:1\n",
    b"tails-profiles-settings:1\ntails-profiles-settings:1",
    b"\ntails-profiles-settings:1",
    b"tails-profile-settings:1",
    b"tails-profiles-setting:1",
    b"Tails-profiles-settings:1",
    b"TAILS-PROFILES-SETTINGS:1",
    b"tails-profiles-Settings:1",
    b"tails-profiles-settings=1",
    b"tails-profiles-settings:1x",
    b"xtails-profiles-settings:1",
    b"'tails-profiles-settings:1'",
    b"tails-profiles-settings:1\x81",
    b"\x88tails-profiles-settings:1",
    b"tails-profiles-settings:\xef\xbc\x91",
    b"x" * 4070 + b"tails-profiles-settings",
)

TOR = b"tails-profile:tor-guest"
I2P = b"tails-profile:i2p-guest"
APP = b"tails-profile:app-guest"
TAG = b"tails-profiles-settings:1"
QUARANTINE = "quarantine"
NORMAL = "normal"


@dataclass(frozen=True)
class Case:
    """One machine: its three fields and what they select, and which field the answer names."""

    bios_vendor: Value
    product_serial: Value
    chassis_asset_tag: Value
    profile: str
    field: str | None
    container: bool = False


V, S, C = "bios_vendor", "product_serial", "chassis_asset_tag"

# Written out one by one: how the fields act together.
COMBINED: tuple[Case, ...] = (
    # One token, in either field, or the same in both.
    Case(TOR, b"", b"", "tor-guest", V),
    Case(b"", TOR, b"", "tor-guest", S),
    Case(TOR, TOR, b"", "tor-guest", V),
    Case(I2P, b"", b"", "i2p-guest", V),
    Case(b"", I2P, b"", "i2p-guest", S),
    Case(I2P, I2P, b"", "i2p-guest", V),
    Case(APP, b"", b"", "app-guest", V),
    Case(b"", APP, b"", "app-guest", S),
    Case(APP, APP, b"", "app-guest", V),
    Case(TOR, b"0", b"", "tor-guest", V),
    Case(b"innotek GmbH", TOR, b"", "tor-guest", S),
    Case(b"SeaBIOS", APP, b"Default string", "app-guest", S),
    Case(APP, b"PF1ABCDE", b"No Asset Tag", "app-guest", V),
    Case(b"a\nb", I2P, b"c\nd", "i2p-guest", S),
    Case(TOR, b"\xff\xff", b"\x81", "tor-guest", V),
    # With the settings tag.
    Case(TOR, b"", TAG, "tor-guest", V),
    Case(TOR, TOR, TAG, "tor-guest", V),
    Case(b"", APP, TAG, "app-guest", S),
    Case(I2P, b"0", TAG, "i2p-guest", V),
    Case(APP, ABSENT, TAG, "app-guest", V),
    # Absent fields, no DMI at all.
    Case(ABSENT, ABSENT, ABSENT, NORMAL, None),
    Case(TOR, ABSENT, ABSENT, "tor-guest", V),
    Case(ABSENT, TOR, ABSENT, "tor-guest", S),
    Case(ABSENT, APP, TAG, "app-guest", S),
    Case(ABSENT, b"", b"", NORMAL, None),
    Case(b"LENOVO", ABSENT, b"", NORMAL, None),
    # Two different tokens.
    Case(TOR, I2P, b"", QUARANTINE, V),
    Case(TOR, APP, b"", QUARANTINE, V),
    Case(I2P, TOR, b"", QUARANTINE, V),
    Case(I2P, APP, b"", QUARANTINE, V),
    Case(APP, TOR, b"", QUARANTINE, V),
    Case(APP, I2P, b"", QUARANTINE, V),
    Case(APP, TOR, TAG, QUARANTINE, V),
    # A token beside something wrong: the wrong field is named.
    Case(TOR, b"tails-profile:", b"", QUARANTINE, S),
    Case(TOR, b" tails-profile:tor-guest", b"", QUARANTINE, S),
    Case(b"tails-profile:tor-guest ", TOR, b"", QUARANTINE, V),
    Case(b"TAILS-PROFILE:tor-guest", TOR, TAG, QUARANTINE, V),
    Case(TOR, TOR, b"tails-profiles-settings:2", QUARANTINE, C),
    Case(TOR, b"", b"tails-profile:tor-guest", QUARANTINE, C),
    Case(APP, b"tails-profile:x", b"tails-profile:y", QUARANTINE, S),
    Case(b"tails-profile:x", b"tails-profile:y", b"tails-profile:z", QUARANTINE, V),
    Case(TOR, I2P, b"tails-profile:z", QUARANTINE, C),
    # The tag without a token.
    Case(b"", b"", TAG, QUARANTINE, C),
    Case(b"QEMU", b"0", TAG, QUARANTINE, C),
    Case(ABSENT, ABSENT, TAG, QUARANTINE, C),
    Case(b"tor-guest", b"", TAG, QUARANTINE, C),
    # Not a regular file that can be read.
    Case(DIRECTORY, b"", b"", QUARANTINE, V),
    Case(b"", DIRECTORY, b"", QUARANTINE, S),
    Case(b"", b"", DIRECTORY, QUARANTINE, C),
    Case(TOR, DIRECTORY, b"", QUARANTINE, S),
    Case(TOR, b"", DIRECTORY, QUARANTINE, C),
    Case(DIRECTORY, TOR, TAG, QUARANTINE, V),
    Case(DANGLING, b"", b"", QUARANTINE, V),
    Case(b"", DANGLING, b"", QUARANTINE, S),
    Case(TOR, b"", DANGLING, QUARANTINE, C),
    Case(FIFO, b"", b"", QUARANTINE, V),
    Case(TOR, FIFO, b"", QUARANTINE, S),
    Case(b"tails-profile:x", DIRECTORY, b"", QUARANTINE, V),
    Case(DIRECTORY, b"tails-profile:x", b"", QUARANTINE, V),
    # No newline at the end.
    Case(Raw(b""), b"", b"", QUARANTINE, V),
    Case(b"", Raw(b""), b"", QUARANTINE, S),
    Case(b"", b"", Raw(b""), QUARANTINE, C),
    Case(Raw(b"SeaBIOS"), b"", b"", QUARANTINE, V),
    Case(b"", Raw(b"0"), b"", QUARANTINE, S),
    Case(Raw(TOR), b"", b"", QUARANTINE, V),
    Case(b"", Raw(APP), b"", QUARANTINE, S),
    Case(TOR, b"", Raw(TAG), QUARANTINE, C),
    Case(TOR, Raw(TOR), b"", QUARANTINE, S),
    Case(Raw(b"a\nb"), b"", b"", QUARANTINE, V),
    Case(Raw(b"SeaBIOS\n "), b"", b"", QUARANTINE, V),
    Case(b"", b"", Raw(b"0\n\t "), QUARANTINE, C),
    Case(Raw(b"tails-profile:tor-guest\nx"), b"", b"", QUARANTINE, V),
    Case(Raw(b"\x81"), b"", b"", QUARANTINE, V),
    # The longest value the kernel shows is 4094 bytes and its newline.
    Case(Raw(b"x" * 4094 + b"\n"), TOR, b"", "tor-guest", S),
    Case(Raw(b"x" * 4095), b"", b"", QUARANTINE, V),
    # A container's DMI is its host's.
    Case(TOR, b"", b"", NORMAL, None, container=True),
    Case(TOR, APP, b"", NORMAL, None, container=True),
    Case(b"tails-profile:", b"", b"", NORMAL, None, container=True),
    Case(DIRECTORY, b"", TAG, NORMAL, None, container=True),
    Case(b"", b"", b"", NORMAL, None, container=True),
)

# Outside the parity of the two classifiers: sysfs cannot show these, and dash cannot see NUL.
PYTHON_ONLY: tuple[Case, ...] = (
    Case(Raw(b"SeaBIOS\x00\n"), b"", b"", QUARANTINE, V),
    Case(b"", Raw(b"\x00\n"), b"", QUARANTINE, S),
    Case(Raw(TOR + b"\x00\n"), b"", b"", QUARANTINE, V),
    Case(Raw(b"tails-\x00profile:tor-guest\n"), b"", b"", QUARANTINE, V),
    Case(TOR, b"", Raw(TAG + b"\x00\n"), QUARANTINE, C),
    Case(Raw(b"x" * 4095 + b"\n"), b"", b"", QUARANTINE, V),
    Case(Raw(b"x" * 5000 + b"\n"), b"", b"", QUARANTINE, V),
    Case(TOR, Raw(b" " * 70000 + b"\n"), b"", QUARANTINE, S),
)

CASES: tuple[Case, ...] = (
    *COMBINED,
    *(Case(value, b"", b"", NORMAL, None) for value in HARMLESS),
    *(Case(b"", value, b"", NORMAL, None) for value in HARMLESS),
    *(Case(b"", TOR, value, "tor-guest", S) for value in HARMLESS),
    *(Case(value, APP, TAG, "app-guest", S) for value in HARMLESS),
    *(Case(value, b"", b"", QUARANTINE, V) for value in MALFORMED),
    *(Case(b"", value, b"", QUARANTINE, S) for value in MALFORMED),
    *(Case(value, TOR, TAG, QUARANTINE, V) for value in MALFORMED),
    *(Case(b"", b"", value, QUARANTINE, C) for value in MALFORMED_TAGS),
    *(Case(I2P, b"0", value, QUARANTINE, C) for value in MALFORMED_TAGS),
)
