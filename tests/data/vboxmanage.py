# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``VBoxManage modifyvm`` and the firmware's configuration take, by VirtualBox's own words.

Read in the option tables of 6.1.38, 7.0.18 and 7.1.12 (``VBoxManageModifyVM.cpp``), run with
7.2.22. ``FLAGS`` are spellings that 7.0, 7.1 and 7.2 all take; ``N`` is an adapter's number.
"""

FLAGS = frozenset(
    """
    accelerate-3d audio-driver audio-enabled autostart-enabled bios-boot-menu bios-pxe-debug
    bios-system-time-offset boot1 boot2 boot3 boot4 cable-connectedN chipset
    clipboard-file-transfers clipboard-mode cpu-hotplug cpuid-set cpus drag-and-drop firmware
    graphicscontroller guest-memory-balloon hardware-uuid hpet ibpb-on-vm-entry ibpb-on-vm-exit
    intnetN keyboard l1d-flush-on-sched l1d-flush-on-vm-entry lpt1 mac-addressN mds-clear-on-sched
    mds-clear-on-vm-entry memory monitor-count mouse nat-dns-host-resolverN nat-dns-pass-domainN
    nat-dns-proxyN nat-localhostreachableN nat-netN nested-hw-virt nic-promiscN nic-typeN nicN
    paravirt-provider recording rtc-use-utc spec-ctrl teleporter tracing-allow-vm-access
    tracing-enabled uart1 usb-card-reader usb-ehci usb-ohci usb-xhci vram vrde
    """.split()  # noqa: SIM905 - reads better
)
#: What one version takes beyond these.
FLAGS_BY_VERSION = {
    (7, 0): frozenset({"uart-mode1"}),
    (7, 1): frozenset({"uart-mode1", "nat-forward-broadcastN"}),
    (7, 2): frozenset({"uart-mode1", "nat-forward-broadcastN", "nat-enable-tftpN"}),
}
#: 6.1.38 knows no dashes inside most of its flags.
FLAGS_61 = frozenset(
    """
    accelerate3d audio autostart-enabled biosbootmenu biospxedebug biossystemtimeoffset boot1 boot2
    boot3 boot4 cableconnectedN chipset clipboard-mode cpuhotplug cpuid-set cpus draganddrop
    firmware
    graphicscontroller guestmemoryballoon hardwareuuid hpet ibpb-on-vm-entry ibpb-on-vm-exit
    intnetN keyboard l1d-flush-on-sched l1d-flush-on-vm-entry lpt1 macaddressN mds-clear-on-sched
    mds-clear-on-vm-entry memory monitorcount mouse natdnshostresolverN natdnspassdomainN
    natdnsproxyN natnetN nested-hw-virt nicN nicpromiscN nictypeN paravirtprovider recording
    rtcuseutc spec-ctrl teleporter tracing-allow-vm-access tracing-enabled uart1 uartmode1 usb
    usbcardreader usbehci usbxhci vram vrde
    """.split()  # noqa: SIM905 - reads better
)
#: Flags that must not be there: they fail in some builds and take their whole call with them, or
#: do more than they say.
REFUSED = frozenset({"page-fusion", "x2apic", "nat-settingsN", "defaultfrontend"})

#: Keys of the firmware's device; an unknown one stops the machine.
DMI_STRINGS = frozenset(
    """
    DmiBIOSVendor DmiBIOSVersion DmiBIOSReleaseDate DmiSystemVendor DmiSystemProduct
    DmiSystemVersion DmiSystemSerial DmiSystemSKU DmiSystemFamily DmiSystemUuid DmiBoardVendor
    DmiBoardProduct DmiBoardVersion DmiBoardSerial DmiBoardAssetTag DmiBoardLocInChass
    DmiChassisVendor DmiChassisVersion DmiChassisSerial DmiChassisAssetTag DmiOEMVBoxVer
    DmiOEMVBoxRev
    """.split()  # noqa: SIM905 - reads better
)
DMI_NUMBERS = frozenset(
    """
    DmiBIOSReleaseMajor DmiBIOSReleaseMinor DmiBIOSFirmwareMajor DmiBIOSFirmwareMinor
    DmiBoardBoardType DmiChassisType
    """.split()  # noqa: SIM905 - reads better
)
#: Bytes of text that the tables hold together, 768 less what the structures take.
DMI_BYTES = 455
#: Longest values of a drive's strings.
DRIVE_STRINGS = {
    "SerialNumber": 20,
    "FirmwareRevision": 8,
    "ModelNumber": 40,
    "ATAPIVendorId": 8,
    "ATAPIProductId": 16,
    "ATAPIRevision": 4,
}
