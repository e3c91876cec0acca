"""A WebSocket echo by `websockets`, which tunnels through the environment's proxy, ws:// too."""

import argparse

import websockets
from websockets.sync.client import connect

import seen


def look():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="wss://… or ws://…")
    parser.add_argument("messages", nargs="+")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", type=seen.header)
    args = parser.parse_args()
    client = f"websockets {websockets.__version__}"
    try:
        with connect(args.url, additional_headers=args.header, proxy=True, open_timeout=30) as socket:
            received = [exchange(socket, message) for message in args.messages]
            return {"client": client, "received": received, **answer(socket.response)}
    except websockets.exceptions.InvalidStatus as refused:
        body = refused.response.body or b""
        return {"client": client, "body": body.decode("utf-8", "replace"), **answer(refused.response)}


def exchange(socket, message):
    socket.send(message)
    return socket.recv(timeout=30)


def answer(response):
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    return {"status": response.status_code, "headers": headers}


seen.report(look)
