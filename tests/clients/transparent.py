"""One call by a client library, with nothing but the sealed token in KEY: no proxy, no roots of its own.

Usage: transparent.py CLIENT. The hosts are those that the libraries call by themselves, where they have one.
"""

import os
import sys

import seen

KEY = os.environ["KEY"]
URL = "https://api.example.com/v1/items"
BEARER = {"Authorization": f"Bearer {KEY}"}


def of_urllib():
    from urllib.request import Request, urlopen

    return urlopen(Request(URL, headers=BEARER), timeout=30).read().decode()


def of_requests():
    import requests

    return requests.get(URL, headers=BEARER, timeout=30).text


def of_httpx():
    import httpx

    with httpx.Client(http2=True) as client:
        answer = client.get(URL, headers=BEARER, timeout=30)
    assert answer.http_version == "HTTP/2", answer.http_version
    return answer.text


def of_aiohttp():
    import asyncio

    import aiohttp

    async def get():
        async with aiohttp.ClientSession() as session:
            async with session.get(URL, headers=BEARER) as answer:
                return await answer.text()

    return asyncio.run(get())


def of_openai():
    import openai

    client = openai.OpenAI(api_key=KEY, max_retries=0, timeout=30)
    asked = [{"role": "user", "content": "hello"}]
    chunks = client.chat.completions.create(model="m", messages=asked, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def of_anthropic():
    import anthropic

    client = anthropic.Anthropic(api_key=KEY, max_retries=0, timeout=30)
    asked = [{"role": "user", "content": "hello"}]
    return client.messages.create(model="m", max_tokens=8, messages=asked).content[0].text


def of_slack_sdk():
    from slack_sdk import WebClient

    return WebClient(token=KEY, timeout=30).auth_test()["user"]


def look():
    return {"said": globals()[f"of_{sys.argv[1]}"]()}


seen.report(look)
