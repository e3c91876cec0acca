"""S3 and STS by boto3, with whatever keys, proxy and roots the environment holds: one line with what each call came to."""

import hashlib
import io
import os

import boto3
import requests
from botocore.config import Config

import seen


# As it comes; and with the body's hash in the head, and signatures in URLs that are not those of before SigV4.
WAYS = {
    "plain": {},
    "signed": {
        "signature_version": "s3v4",
        "request_checksum_calculation": "when_required",
        "s3": {"payload_signing_enabled": True, "addressing_style": "virtual"},
    },
}


def look():
    body = os.urandom(10 << 20)
    hashes = {"sent": sha256(body)}
    for name, settings in WAYS.items():
        s3 = boto3.client("s3", "eu-west-1", config=Config(retries={"total_max_attempts": 1}, **settings))
        s3.put_object(Bucket="bucket", Key=f"{name} key(1)", Body=body)
        hashes[name] = sha256(s3.get_object(Bucket="bucket", Key=f"{name} key(1)")["Body"].read())
    listed = s3.list_objects_v2(Bucket="bucket", Prefix="")
    s3.upload_fileobj(io.BytesIO(body), "bucket", "in/parts")
    hashes["parts"] = sha256(s3.get_object(Bucket="bucket", Key="in/parts")["Body"].read())
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "in/parts"}, ExpiresIn=86400)
    presigned = requests.get(url, timeout=30)
    hashes["presigned"] = sha256(presigned.content) if presigned.ok else presigned.text
    return {
        "client": f"boto3 {boto3.__version__}",
        "hashes": hashes,
        "listed": [item["Key"] for item in listed["Contents"]],
        "account": boto3.client("sts", "eu-west-1").get_caller_identity()["Account"],
    }


def sha256(body):
    return hashlib.sha256(body).hexdigest()


seen.report(look)
