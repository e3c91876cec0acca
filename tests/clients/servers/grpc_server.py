"""A gRPC echo service over TLS on loopback, by grpcio, with messages that are plain bytes.

The first line on stdout is `{"port": N}`; then one line per call with the method and the metadata
that arrived. Every call also sends initial and trailing metadata.
"""

import argparse
import pathlib
from concurrent import futures

import grpc

import serving


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cert", type=pathlib.Path, required=True, help="PEM chain")
    parser.add_argument("--key", type=pathlib.Path, required=True, help="PEM key")
    args = parser.parse_args()
    credentials = grpc.ssl_server_credentials([(args.key.read_bytes(), args.cert.read_bytes())])
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([Echo()])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    serving.say({"port": port})
    serving.end_with_stdin()


class Echo(grpc.GenericRpcHandler):
    """Routes `/echo.Echo/…` to the functions below."""

    def service(self, call):
        metadata = [(name, str(value)) for name, value in call.invocation_metadata]
        serving.say({"method": call.method, "metadata": metadata})
        return METHODS.get(call.method)


def greet(context):
    context.send_initial_metadata([("served-by", "echo")])
    context.set_trailing_metadata([("calls-done", "1")])


def say(request, context):
    """The request, as it came."""
    greet(context)
    return request


def reveal(_request, context):
    """What a leaky service does: answers with the credential that it was sent."""
    greet(context)
    return dict(context.invocation_metadata()).get("authorization", "").encode()


def fail(request, context):
    """A status other than OK, with the request as its details."""
    context.set_trailing_metadata([("calls-done", "1")])
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, request.decode())


def count(request, context):
    """Five messages."""
    greet(context)
    for number in range(1, 6):
        yield request + b" %d" % number


def chat(requests, context):
    """Every message back as it comes."""
    greet(context)
    yield from requests


METHODS = {
    "/echo.Echo/Say": grpc.unary_unary_rpc_method_handler(say),
    "/echo.Echo/Reveal": grpc.unary_unary_rpc_method_handler(reveal),
    "/echo.Echo/Fail": grpc.unary_unary_rpc_method_handler(fail),
    "/echo.Echo/Count": grpc.unary_stream_rpc_method_handler(count),
    "/echo.Echo/Chat": grpc.stream_stream_rpc_method_handler(chat),
}

main()
