"""The web process of the example app: one page that says which dyno served it, and a way to kill that dyno."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DYNO, PORT = os.environ["DYNO"], int(os.environ["PORT"])


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            print("asked to crash", flush=True)
            os._exit(1)
        body = f"{os.environ.get('GREETING', 'Hello')}: {DYNO}, process {os.getpid()}, port {PORT}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


print(f"listening on http://127.0.0.1:{PORT}/", flush=True)
ThreadingHTTPServer(("", PORT), Page).serve_forever()
