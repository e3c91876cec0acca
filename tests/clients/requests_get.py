"""One request by `requests`, which takes the proxy and REQUESTS_CA_BUNDLE from the environment."""

import requests

import seen


def look():
    args = seen.request_arguments(__doc__)
    answer = requests.request(
        args.method, args.url, headers=dict(args.header), data=args.data, timeout=30, allow_redirects=False
    )
    return {
        "client": f"requests {requests.__version__}",
        "status": answer.status_code,
        "http": {10: "HTTP/1.0", 11: "HTTP/1.1"}.get(answer.raw.version, str(answer.raw.version)),
        "headers": {name.lower(): value for name, value in answer.headers.items()},
        "body": answer.text,
    }


seen.report(look)
