"""A handshake through the CONNECT proxy of `https_proxy` with X.509 checked strictly.

Python 3.13 checks strictly by default; the flag is set here as well, so that an older one does too.
"""

import argparse
import base64
import http.client
import os
import platform
import ssl
from urllib.parse import unquote, urlsplit

import seen


def look():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("--port", type=int, default=443)
    parser.add_argument("--path", help="also GET this path and report the status")
    args = parser.parse_args()
    context = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    connection = tunnel(args.host, args.port, context)
    connection.connect()
    line = {
        "client": f"python {platform.python_version()}, {ssl.OPENSSL_VERSION}",
        "tls": connection.sock.version(),
        "certificate": connection.sock.getpeercert(),
    }
    if args.path:
        connection.request("GET", args.path)
        answer = connection.getresponse()
        line.update(status=answer.status, body=answer.read().decode("utf-8", "replace"))
    return line


def tunnel(host, port, context):
    proxy = os.environ.get("https_proxy")
    if not proxy:
        return http.client.HTTPSConnection(host, port, context=context, timeout=30)
    proxy = urlsplit(proxy)
    connection = http.client.HTTPSConnection(proxy.hostname, proxy.port, context=context, timeout=30)
    connection.set_tunnel(host, port, headers=credentials(proxy))
    return connection


def credentials(proxy):
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


seen.report(look)
