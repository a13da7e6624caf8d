# SPDX-License-Identifier: Apache-2.0
"""GET /?seed=N: the thumbnail of picture N, as PNG."""
import io
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy
from PIL import Image

# What a real function loads when it starts and then only reads.
TABLE = numpy.random.default_rng(1).integers(0, 256, (1024, 1024, 3), dtype=numpy.uint8)


def thumbnail(seed):
    at = seed * 37 % 768
    picture = Image.fromarray(TABLE[at:at + 256, at:at + 256])
    out = io.BytesIO()
    picture.resize((64, 64), Image.BILINEAR).save(out, "PNG")
    return out.getvalue()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = thumbnail(int(parse_qs(urlsplit(self.path).query).get("seed", ["0"])[0]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


HTTPServer((os.environ.get("ADDRESS", "127.0.0.1"), int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
