"""Smart HTTP over TLS on loopback: the real `git http-backend`, run as CGI, behind Basic auth.

Serves `/repo.git`, a bare repository with one commit on `main`, for clone and push. The first line on
stdout is `{"port": N}`; then one line per request with what arrived.
"""

import argparse
import base64
import hmac
import os
import pathlib
import ssl
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import serving

USER = "x-access-token"
COPY = 64 * 1024
# git must not read the configuration of whoever runs the tests.
GIT_ENV = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "Tester",
    "GIT_AUTHOR_EMAIL": "tester@example.com",
    "GIT_COMMITTER_NAME": "Tester",
    "GIT_COMMITTER_EMAIL": "tester@example.com",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cert", required=True, help="PEM chain")
    parser.add_argument("--key", required=True, help="PEM key")
    parser.add_argument("--token", required=True, help=f"the password that {USER} must show")
    parser.add_argument("--root", type=pathlib.Path, required=True, help="folder in which repo.git is made")
    args = parser.parse_args()
    args.root = args.root.resolve()
    make_repository(args.root)
    server = Server(args)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    serving.say({"port": server.server_address[1]})
    serving.end_with_stdin()


def make_repository(root):
    bare = root / "repo.git"
    if bare.exists():
        return
    git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    git("-C", str(bare), "config", "http.receivepack", "true")
    with tempfile.TemporaryDirectory() as work:
        git("init", "--quiet", "--initial-branch=main", work)
        pathlib.Path(work, "hello.txt").write_text("hello\n")
        git("-C", work, "add", "hello.txt")
        git("-C", work, "commit", "--quiet", "--message", "first")
        git("-C", work, "push", "--quiet", str(bare), "main")


def git(*args):
    subprocess.run(["git", *args], check=True, env=GIT_ENV, stdout=subprocess.DEVNULL)


class Server(ThreadingHTTPServer):
    """One thread per connection, so a slow push holds up nobody."""

    daemon_threads = True

    def __init__(self, args):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = args.root
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(args.cert, args.key)
        self.tls.set_alpn_protocols(["http/1.1"])
        pair = f"{USER}:{args.token}".encode()
        self.expected = "Basic " + base64.b64encode(pair).decode()

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    """Asks for the credential, then hands the request to the backend and its answer back."""

    protocol_version = "HTTP/1.1"

    def setup(self):
        # Here, in the connection's own thread: a handshake must not hold up the accept loop.
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_GET(self):
        self.serve()

    def do_POST(self):
        self.serve()

    def serve(self):
        shown = self.headers.get("Authorization", "")
        authorized = hmac.compare_digest(shown.encode(), self.server.expected.encode())
        serving.say(
            {
                "method": self.command,
                "path": self.path,
                "headers": [list(pair) for pair in self.headers.items()],
                "authorized": authorized,
            }
        )
        if not authorized:
            self.challenge()
            return
        self.run_backend()

    def challenge(self):
        for _ in self.body():
            pass
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def run_backend(self):
        backend = subprocess.Popen(
            ["git", "http-backend"], env=self.cgi(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        # The backend may answer before it has read all: the body goes in from a thread of its own.
        feeder = threading.Thread(target=feed, args=(self.body(), backend.stdin), daemon=True)
        feeder.start()
        self.answer(backend.stdout)
        feeder.join()
        backend.wait()

    def cgi(self):
        path, _, query = self.path.partition("?")
        env = GIT_ENV | {
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "REMOTE_USER": USER,
            "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        # Without a length the backend reads to the end of its input, which is right for chunked.
        if "Content-Length" in self.headers:
            env["CONTENT_LENGTH"] = self.headers["Content-Length"]
        return env

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            yield from self.chunks()
            return
        yield from self.exactly(int(self.headers.get("Content-Length", "0")))

    def chunks(self):
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield from self.exactly(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def exactly(self, size):
        while size > 0:
            piece = self.rfile.read(min(size, COPY))
            if not piece:
                raise ConnectionError("the request body ended early")
            size -= len(piece)
            yield piece

    def answer(self, output):
        status, headers = 200, []
        while line := output.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            if name.lower() == "status":
                status = int(value.split()[0])
            else:
                headers.append((name, value.strip()))
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := output.read1(COPY):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        """The JSON lines are the log."""


def feed(body, stdin):
    try:
        with stdin:
            for piece in body:
                stdin.write(piece)
    except BrokenPipeError:
        for _ in body:
            pass


main()
