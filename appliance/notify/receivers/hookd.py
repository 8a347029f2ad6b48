"""A receiver of webhooks that checks signatures as https://www.standardwebhooks.com says, on its own, and tells each
request as one line of JSON.

Arguments: port, certificate, key, secret, and a file with answers: each request takes its first line away, such as
"503 Retry-After=1" or "302 Location=/elsewhere"; "hang" never answers; without lines the answer is 200.
"""
import base64
import hashlib
import hmac
import http.server
import json
import ssl
import sys
import threading
import time

port, cert, key, secret, answers = sys.argv[1:]
lock = threading.Lock()


def next_answer():
    with lock:
        with open(answers) as f:
            lines = f.read().splitlines()
        with open(answers, "w") as f:
            f.write("\n".join(lines[1:]))
        return lines[0] if lines else "200"


def problem(headers, body):
    """What is wrong with the signature; empty when it is right."""
    msg_id, stamp, given = (headers.get(name, "") for name in ("webhook-id", "webhook-timestamp", "webhook-signature"))
    if not msg_id or not stamp.isdigit() or not given:
        return "headers are missing"
    if abs(time.time() - int(stamp)) > 300:
        return "the timestamp is too far away"
    signed = b".".join([msg_id.encode(), stamp.encode(), body])
    want = base64.b64encode(hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()).decode()
    for part in given.split(" "):
        version, _, signature = part.partition(",")
        if version == "v1" and hmac.compare_digest(signature, want):
            return ""
    return "no signature matches"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = next_answer()
        print(json.dumps({"path": self.path, "id": self.headers.get("webhook-id"), "problem": problem(self.headers, body),
                          "body": json.loads(body), "answered": answer}), flush=True)
        if answer == "hang":
            time.sleep(3600)
        status, *headers = answer.split()
        self.send_response(int(status))
        for header in headers:
            name, _, value = header.partition("=")
            self.send_header(name, value)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"noted")

    def do_GET(self):
        print(json.dumps({"path": self.path, "problem": "a redirect was followed"}), flush=True)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
server.daemon_threads = True
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(json.dumps({"ready": True}), flush=True)
server.serve_forever()
