"""Calls the echo service of servers/grpc_server.py with grpcio.

grpcio reads the proxy from `https_proxy` (lower case only) and its roots from
GRPC_DEFAULT_SSL_ROOTS_FILE_PATH only.
"""

import argparse
import platform

import grpc

import seen

# What grpcio says by itself when nobody answered.
UNANSWERED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def look():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="HOST:PORT")
    parser.add_argument("call", choices=["Say", "Reveal", "Fail", "Count", "Chat"])
    parser.add_argument("message", nargs="*", default=["hello"], help="Chat sends several")
    parser.add_argument("--token", help="sent as metadata `authorization: Bearer …`")
    args = parser.parse_args()
    with grpc.secure_channel(args.target, grpc.ssl_channel_credentials()) as channel:
        return answer(*start(channel, args))


def start(channel, args):
    """The call and its answers. Without serializers a message is its bytes: no generated code."""
    method = f"/echo.Echo/{args.call}"
    messages = [message.encode() for message in args.message]
    options = {"timeout": 30}
    if args.token:
        options["metadata"] = [("authorization", f"Bearer {args.token}")]
    if args.call == "Chat":
        call = channel.stream_stream(method)(iter(messages), **options)
        return call, call
    if args.call == "Count":
        call = channel.unary_stream(method)(messages[0], **options)
        return call, call
    call = channel.unary_unary(method).future(messages[0], **options)
    return call, (ask() for ask in [call.result])


def answer(call, messages):
    received = []
    try:
        for message in messages:
            received.append(message.decode("utf-8", "replace"))
    except grpc.RpcError:
        if call.code() in UNANSWERED:
            raise ConnectionError(f"{call.code().name}: {call.details()}") from None
    return {
        "client": f"grpcio {grpc.__version__}, python {platform.python_version()}",
        "code": call.code().name,
        "details": call.details(),
        "received": received,
        "initial": pairs(call.initial_metadata()),
        "trailing": pairs(call.trailing_metadata()),
    }


def pairs(metadata):
    return {name: value if isinstance(value, str) else value.hex() for name, value in metadata or ()}


seen.report(look)
