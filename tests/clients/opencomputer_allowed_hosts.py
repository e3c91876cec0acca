"""Reads a sandbox's allowed hosts with the real OpenComputer SDK, as an operator does.

The SDK honours the proxy variables: run it without them, for it speaks to the control API.
"""

import argparse
import asyncio

import httpx
from opencomputer import Sandbox
from opencomputer.version import __version__

import seen


def look():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sandbox")
    parser.add_argument("--api-url", help="default: OPENCOMPUTER_API_URL")
    parser.add_argument("--api-key", help="default: OPENCOMPUTER_API_KEY")
    return asyncio.run(read(parser.parse_args()))


async def read(args):
    client = f"opencomputer-sdk {__version__}"
    try:
        sandbox = await Sandbox.connect(args.sandbox, api_key=args.api_key, api_url=args.api_url)
        try:
            hosts = await sandbox.get_allowed_hosts()
        finally:
            await sandbox.close()
    except httpx.HTTPStatusError as refused:
        return {"client": client, **refusal(refused.response)}
    return {
        "client": client,
        "status": 200,
        "sandbox": {"id": sandbox.sandbox_id, "status": sandbox.status, "template": sandbox.template},
        "allowedHosts": hosts,
    }


def refusal(response):
    return {"status": response.status_code, "path": response.url.path, "body": response.text}


seen.report(look)
