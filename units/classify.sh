# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=dash disable=SC2034
#
# The classifier for the moments in which starting anything bigger would slow every boot: sourced
# by the generator, by lockdown and by the two units after it. Its reference is
# tails_profiles/selection.py; one corpus is driven through both.
#
# classify DIRECTORY    (normally /sys/class/dmi/id) starts no process, prints nothing, and sets
#
#   tp_profile    normal, tor-guest, i2p-guest, app-guest or quarantine
#   tp_field      the field the answer comes from, or nothing
#   tp_reason     in quarantine, what is wrong, in words
#   tp_settings   1 if the chassis promises a settings disk, else 0
#
# contained    starts one process; true in a container, whose DMI is its host's.
#
# The caller's environment holds every word of the kernel command line: each variable is assigned
# before it is read.

tp_newline='
'

# Read one field into tp_value, whole. Fails with tp_reason set if the file is there and is not a
# regular file that ends in a newline.
tp_read() {
    tp_value='' tp_lines='' tp_line=''
    if [ ! -f "$1" ]; then
        [ -e "$1" ] || [ -L "$1" ] || return 0
        tp_reason='it is not a regular file'
        return 1
    fi
    # A failed redirection of a group does not end the shell, as that of a special built-in would.
    {
        # Plain read would drop blanks, and stop at the first of two lines.
        while IFS= read -r tp_line; do
            tp_value=$tp_value${tp_lines:+$tp_newline}$tp_line
            tp_lines=1
        done
    } 2>/dev/null <"$1" || {
        tp_reason='it cannot be read'
        return 1
    }
    if [ -n "$tp_line" ] || [ -z "$tp_lines" ]; then
        tp_reason='it does not end in a newline'
        return 1
    fi
}

classify() {
    tp_profile=normal tp_field='' tp_reason='' tp_settings=0
    tp_vendor='' tp_serial='' tp_fault=''
    if [ -e "$1" ] && [ ! -d "$1" ]; then
        tp_profile=quarantine tp_field=bios_vendor
        tp_reason="$1 is not a directory"
        return
    fi
    for tp_name in bios_vendor product_serial chassis_asset_tag; do
        tp_read "$1/$tp_name" || {
            tp_fault=$tp_name
            break
        }
        case $tp_name:$tp_value in
            bios_vendor:tails-profile:tor-guest | bios_vendor:tails-profile:i2p-guest | \
                bios_vendor:tails-profile:app-guest)
                tp_vendor=${tp_value#tails-profile:}
                ;;
            product_serial:tails-profile:tor-guest | product_serial:tails-profile:i2p-guest | \
                product_serial:tails-profile:app-guest)
                tp_serial=${tp_value#tails-profile:}
                ;;
            chassis_asset_tag:tails-profiles-settings:1)
                tp_settings=1
                ;;
            *[Tt][Aa][Ii][Ll][Ss]-[Pp][Rr][Oo][Ff][Ii][Ll][Ee]*)
                tp_fault=$tp_name
                tp_reason='its value is none of those it may have'
                break
                ;;
        esac
    done
    if [ -n "$tp_fault" ]; then
        tp_profile=quarantine tp_field=$tp_fault tp_settings=0
    elif [ -n "$tp_vendor" ] && [ -n "$tp_serial" ] && [ "$tp_vendor" != "$tp_serial" ]; then
        tp_profile=quarantine tp_field=bios_vendor tp_settings=0
        tp_reason="two tokens: bios_vendor says $tp_vendor and product_serial says $tp_serial"
    elif [ -n "$tp_vendor" ]; then
        tp_profile=$tp_vendor tp_field=bios_vendor
    elif [ -n "$tp_serial" ]; then
        tp_profile=$tp_serial tp_field=product_serial
    elif [ "$tp_settings" = 1 ]; then
        tp_profile=quarantine tp_field=chassis_asset_tag tp_settings=0
        tp_reason='it promises settings without a token'
    fi
}

# What PID 1 believes of containers it may have from its environment, and thus from the kernel's
# command line: "container=lxc" there must not switch us off. The kernel numbers the first PID
# namespace 0xEFFFFFFC (PROC_PID_INIT_INO in its linux/proc_ns.h), and no other; every container has
# one of its own. No answer is no container.
contained() {
    case $(readlink /proc/self/ns/pid) in
        'pid:[4026531836]') return 1 ;;
        'pid:['*) return 0 ;;
    esac
    return 1
}
