"""Runs one emulator, and ends it when whoever started this program is gone.

    guard.py SCRATCH_DIR COMMAND [ARG]...

The emulator lives in a session of its own (functions that it starts are in
it), so Ctrl-C in a terminal does not reach it; this program waits for its own
standard input to close, which happens however the owner ends: by dropping the
handle, by a panic, by Ctrl-C, by a kill. Then the whole session is killed and
SCRATCH_DIR, the emulator's temporary folder, removed.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading

scratch, command = sys.argv[1], sys.argv[2:]
for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(ignored, signal.SIG_IGN)

os.makedirs(scratch, exist_ok=True)
emulator = subprocess.Popen(
    command,
    stdin=subprocess.DEVNULL,
    start_new_session=True,
    env={**os.environ, "TMPDIR": scratch},
    # What is ignored here would be ignored in the emulator too.
    preexec_fn=lambda: [
        signal.signal(s, signal.SIG_DFL)
        for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ],
)


def end():
    try:
        os.killpg(emulator.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    emulator.wait()
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def owner_gone():
    while sys.stdin.buffer.read(4096):
        pass
    end()


threading.Thread(target=owner_gone, daemon=True).start()
emulator.wait()
end()
