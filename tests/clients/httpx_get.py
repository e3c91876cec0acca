"""One request by `httpx` with HTTP/2 offered; proxy and SSL_CERT_FILE come from the environment."""

import httpx

import seen


def look():
    args = seen.request_arguments(__doc__)
    with httpx.Client(http2=True, timeout=30, follow_redirects=args.follow) as client:
        answer = client.request(args.method, args.url, headers=args.header, content=args.data)
    return {
        "client": f"httpx {httpx.__version__}",
        "status": answer.status_code,
        "http": answer.http_version,
        "headers": {name.lower(): value for name, value in answer.headers.items()},
        "body": answer.text,
    }


seen.report(look)
