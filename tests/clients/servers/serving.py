"""What the upstream servers share: JSON lines on stdout, the first of them the port; and their end.

A server ends when its stdin closes, so that no server outlives the test that started it, however
that test ended. The test therefore holds the write end of a pipe as the server's stdin.
"""

import json
import os
import sys
import threading

_turn = threading.Lock()


def say(line):
    """Prints one JSON line whole, from whichever thread."""
    with _turn:
        print(json.dumps(line), flush=True)


def end_with_stdin():
    """Ends the process when stdin closes."""
    sys.stdin.buffer.read()
    os._exit(0)
