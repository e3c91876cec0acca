"""How every client here reports: one JSON line on stdout.

Exit 0 means that a server answered, whatever the status: the test judges that. Exit 1 means that no
answer came (refused, untrusted, timed out); the line then holds `error` and `detail`.
"""

import argparse
import json
import os
import sys


def request_arguments(purpose):
    """The arguments that all the plain HTTP clients share."""
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("url")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", type=header)
    parser.add_argument("--data", help="a request body, sent as UTF-8")
    parser.add_argument("--follow", action="store_true", help="follow redirects")
    return parser.parse_args()


def header(text):
    """`Name: value` as a pair."""
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("a header is NAME:VALUE")
    return name.strip(), value.strip()


def report(look):
    """Runs `look`, prints what it saw as one line and ends the process."""
    try:
        line, status = look(), 0
    except Exception as error:  # every failure is a finding, and the test wants to read it
        line, status = {"error": type(error).__name__, "detail": str(error)}, 1
    print(json.dumps(line), flush=True)
    sys.stdout.flush()
    # Past the interpreter's own end: grpcio's threads may otherwise hold a failed run for seconds.
    os._exit(status)
