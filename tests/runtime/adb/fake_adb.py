"""A stand-in for Android's adb: no phone is behind it, the "device" is a shell of this machine.

It answers `adb devices` and `adb -s SERIAL shell -T COMMAND` as adb does, or misbehaves as
FAKE_ADB_MODE says.
"""

import os
import sys
import time

MODE = os.environ.get("FAKE_ADB_MODE", "")
STATES = {
    "none": [],
    "two": [("R5CT1", "device"), ("emulator-5554", "device")],
    "unauthorized": [("R5CT1", "unauthorized")],
    "offline": [("R5CT1", "offline")],
    "recovery": [("R5CT1", "recovery")],
    "no permissions": [("R5CT1", "no permissions (user in plugdev group); see [http://x]")],
}

if sys.argv[1:] == ["devices"]:
    if MODE == "hang":
        time.sleep(60)
    if MODE == "broken":
        sys.exit("adb: failed to check server version: cannot connect to daemon")
    if MODE == "garbage":
        print("\xff\xfe nothing that adb would say")
        sys.exit()
    print("* daemon started successfully\nList of devices attached")
    for serial, state in STATES.get(MODE, [("R5CT1", "device")]):
        print(f"{serial}\t{state}")
    print()
    sys.exit()

dash_s, serial, shell, dash_t, command = sys.argv[1:]
assert (dash_s, shell, dash_t) == ("-s", "shell", "-T")
with open(os.environ["FAKE_ADB_LOG"], "a") as log:
    log.write(f"{serial}\n")
    calls = log.tell() // len(f"{serial}\n")
if MODE == "vanishes" and calls > 2:
    sys.exit(f"adb: device '{serial}' not found")
if MODE == "revoked":
    sys.exit("adb: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set")
if MODE == "silent":
    time.sleep(60)
# the phone's own programs, and none of this machine's compilers
os.environ["PATH"] = os.environ["FAKE_ADB_PATH"]
os.execv("/bin/sh", ["sh", "-c", command])
