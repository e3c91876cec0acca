"""S3 and STS over TLS on loopback, as far as clients need them, with every signature checked by botocore.

The first line on stdout is `{"port": N}`; then one line per request: what it was, the payload's kind, and why it was refused, if it was. A
request is taken only with the signature that botocore makes of what arrived with the one pair of keys, a date near the present, and a body that
is what its hash or its checksum says.
"""

import argparse
import base64
import datetime
import hashlib
import ssl
import threading
import urllib.parse
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import serving
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ALGORITHM = "AWS4-HMAC-SHA256"
TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


class Refused(Exception):
    """Why a request is not taken."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, args):
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(args.cert, args.key)
        self.context = context
        self.credentials = Credentials(args.access_key_id, args.secret_access_key, args.session_token)
        self.objects, self.uploads = {}, {}

    def get_request(self):
        raw, address = super().get_request()
        # The handshake is the connection's own thread's business.
        return self.context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False), address


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (OSError, ssl.SSLError):
            self.close_connection = True

    def serve(self):
        line = {"request": f"{self.command} {self.path.split('?')[0]}"}
        try:
            self.body = raw = self.read_body()
            service, kind = self.check_signature()
            line["payload"] = kind
            status, headers, body = self.answer(service, decoded(raw, self.headers, kind))
        except Refused as refusal:
            line["refused"] = str(refusal)
            status, headers = 403, {}
            body = b"<Error><Code>SignatureDoesNotMatch</Code><Message>refused</Message></Error>"
        serving.say(line)
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = bytearray()
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            return bytes(body)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def check_signature(self):
        """The service that is signed for, and the payload's kind."""
        parts = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(parts.query)
        presigned = "X-Amz-Signature" in query
        if presigned:
            claim = {name: query[f"X-Amz-{name}"][0] for name in ("Credential", "SignedHeaders", "Signature")}
            date, token = query["X-Amz-Date"][0], query.get("X-Amz-Security-Token", [None])[0]
            check(int(query["X-Amz-Expires"][0]) <= 900, "a URL that lives for long")
        else:
            algorithm, _, rest = self.headers.get("Authorization", "").partition(" ")
            check(algorithm == ALGORITHM, "no signature")
            claim = dict(part.strip().split("=", 1) for part in rest.split(","))
            date, token = self.headers["X-Amz-Date"], self.headers.get("X-Amz-Security-Token")
        credentials = self.server.credentials
        access_key_id, day, region, service, end = claim["Credential"].split("/")
        check(access_key_id == credentials.access_key, "an unknown access key id")
        check(token == credentials.token, "another session token")
        check(end == "aws4_request" and day == date[:8], "a scope that does not fit the date")
        check(abs(now() - parsed(date)) < datetime.timedelta(minutes=15), "a date far from the present")
        names = claim["SignedHeaders"].split(";")
        loose = [n.lower() for n in self.headers if n.lower().startswith("x-amz-") and n.lower() not in names]
        check("host" in names and not loose, f"fields that are not signed: {loose}")
        path = parts.path + ("?" + without_signature(parts.query) if parts.query else "")
        request = AWSRequest(method=self.command, url=f"https://{self.headers['Host']}{path}")
        for name in names:
            for value in self.headers.get_all(name, []):
                request.headers.add_header(name, value)
        request.context["timestamp"] = date
        kind = self.headers.get("X-Amz-Content-SHA256")
        if presigned:
            signer, kind = S3SigV4QueryAuth(credentials, service, region), "presigned"
        elif service == "s3":
            signer = S3SigV4Auth(credentials, service, region)
            check(kind, "no x-amz-content-sha256")
        else:
            signer, kind = SigV4Auth(credentials, service, region), "in the signature"
            request.data = self.body
        canonical = signer.canonical_request(request)
        signature = signer.signature(signer.string_to_sign(request, canonical), request)
        check(signature == claim["Signature"], "another signature")
        return service, kind

    def answer(self, service, body):
        if service == "sts":
            return 200, {"Content-Type": "text/xml"}, IDENTITY
        objects, uploads = self.server.objects, self.server.uploads
        bucket, _, key = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").partition("/")
        host = self.headers["Host"].split(".")[0]
        if host != "s3":
            bucket, key = host, "/".join(part for part in (bucket, key) if part)
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query, keep_blank_values=True)
        xml = {"Content-Type": "application/xml"}
        if self.command == "POST" and "uploads" in query:
            uploads["1"] = {}
            return 200, xml, f"<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>1</UploadId></InitiateMultipartUploadResult>".encode()
        if self.command == "PUT" and "partNumber" in query:
            uploads["1"][int(query["partNumber"][0])] = body
            return 200, {"ETag": etag(body)}, b""
        if self.command == "POST" and "uploadId" in query:
            objects[key] = b"".join(part for _, part in sorted(uploads.pop("1").items()))
            return 200, xml, f"<CompleteMultipartUploadResult><Key>{key}</Key><ETag>{etag(objects[key])}</ETag></CompleteMultipartUploadResult>".encode()
        if self.command == "PUT":
            objects[key] = body
            return 200, {"ETag": etag(body)}, b""
        if not key:
            return 200, xml, listing(bucket, objects)
        if key not in objects:
            return 404, xml, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"
        return self.part_of(objects[key])

    def part_of(self, whole):
        headers = {"ETag": etag(whole), "Accept-Ranges": "bytes", "Last-Modified": "Tue, 24 Nov 2026 00:00:00 GMT"}
        if not (wanted := self.headers.get("Range")):
            return 200, headers | {"Content-Length": str(len(whole))}, whole
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = whole[int(first) : int(last or len(whole) - 1) + 1]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(whole)}"
        return 206, headers, part


def check(holds, why):
    if not holds:
        raise Refused(why)


def decoded(raw, headers, kind):
    """The body itself, once its hash or checksum has been checked."""
    if kind == TRAILER:
        body, rest = bytearray(), raw
        while True:
            head, _, rest = rest.partition(b"\r\n")
            if not (size := int(head, 16)):
                break
            body, rest = body + rest[:size], rest[size + 2 :]
        name, _, checksum = rest.strip().partition(b":")
        check(name == b"x-amz-checksum-crc32", f"a trailer {name}")
        crc32 = base64.b64encode(zlib.crc32(body).to_bytes(4, "big"))
        check(checksum == crc32 and len(body) == int(headers["X-Amz-Decoded-Content-Length"]), "another body")
        return bytes(body)
    if kind and len(kind) == 64:
        check(hashlib.sha256(raw).hexdigest() == kind, "another body")
    return raw


def without_signature(query):
    return "&".join(part for part in query.split("&") if not part.startswith("X-Amz-Signature="))


def now():
    return datetime.datetime.now(datetime.UTC)


def parsed(date):
    return datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)


def etag(body):
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def listing(bucket, objects):
    if not bucket:
        return b"<ListAllMyBucketsResult><Buckets><Bucket><Name>bucket</Name></Bucket></Buckets></ListAllMyBucketsResult>"
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>{len(body)}</Size><LastModified>2026-11-24T00:00:00.000Z</LastModified></Contents>"
        for key, body in objects.items()
    )
    return f"<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()


IDENTITY = b"""<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
<Arn>arn:aws:iam::123456789012:user/tester</Arn><UserId>tester</UserId><Account>123456789012</Account>
</GetCallerIdentityResult></GetCallerIdentityResponse>"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cert", required=True, help="PEM chain")
    parser.add_argument("--key", required=True, help="PEM key")
    parser.add_argument("--access-key-id", required=True)
    parser.add_argument("--secret-access-key", required=True)
    parser.add_argument("--session-token")
    server = Server(parser.parse_args())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    serving.say({"port": server.server_address[1]})
    serving.end_with_stdin()


main()
