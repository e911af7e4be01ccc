"""A worker of the driver's without torch: every row does what its name says."""

import json
import os
import sys
import time

events = int(sys.argv[sys.argv.index("--events") + 1])
rows = sys.argv[sys.argv.index("--worker") + 1 :]


def send(value: object) -> None:
    os.write(events, json.dumps(value).encode() + b"\n")


if rows[0] == "never_starts":
    sys.exit("no device")
send({"ready": True})
for row in rows:
    if row == "hangs":
        time.sleep(600)
    if row == "dies":
        print("out of everything", file=sys.stderr)
        os._exit(7)
    if row == "is_slow":
        time.sleep(0.5)
    if row == "reports_another":
        send({"row": "other", "status": "ok", "figures": {}, "error": ""})
        continue
    error = "a bad figure" if row == "fails" else ""
    send({"row": row, "status": "failed" if error else "ok", "figures": {"x": 1.5}, "error": error})
    if error:
        sys.exit(1)
