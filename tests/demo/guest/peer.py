#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""In the guest: functions that are not Moult's, for comparison. GET on port 9092 answers with JSON:
/start?name=N&argv=...&argv=...   starts one
/dump?name=N                      CRIU dumps and ends it
/restore?name=N                   CRIU restores it: "ms" it took
/end?name=N                       ends it
A file `alone` beside the payload has the argv of one that is started at once, on a network of its own."""
import http.server
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
from urllib.parse import parse_qs, urlsplit

IMAGES = pathlib.Path("/run/moult-criu")  # a tmpfs
ALONE = pathlib.Path("/run/moult/alone")
MODULES = ["libcrc32c", "nfnetlink", "nf_tables", "unix_diag", "inet_diag", "tcp_diag", "udp_diag", "raw_diag",
           "netlink_diag", "af_packet_diag"]


def start(argv, **env):
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            cwd="/", env={"PATH": os.defpath, **env}, start_new_session=True)


def criu(command, images, *more):
    done = subprocess.run(["criu", command, "-D", images, "-o", f"{command}.log", *more], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RuntimeError(f"criu {command}: " + (images / f"{command}.log").read_text(errors="replace")[-1500:])


class Peer:
    def __init__(self):
        self.children = {}

    def start(self, name, query):
        self.children[name] = start(query["argv"])
        return {}

    def dump(self, name, _):
        subprocess.run(["modprobe", "-a", *MODULES], check=True)
        shutil.rmtree(IMAGES / name, ignore_errors=True)
        (IMAGES / name).mkdir(parents=True)
        criu("dump", IMAGES / name, "-t", str(self.children[name].pid))
        self.children[name].wait()
        return {"bytes": sum(f.stat().st_size for f in (IMAGES / name).glob("*.img"))}

    def restore(self, name, _):
        begin = time.monotonic()
        criu("restore", IMAGES / name, "--restore-detached")
        return {"ms": (time.monotonic() - begin) * 1000}

    def end(self, name, _):
        pid = self.children[name].pid
        os.kill(pid, signal.SIGKILL)
        # Not our child after a restore, so there is nothing to wait for; its pid is needed again.
        while pathlib.Path(f"/proc/{pid}").exists():
            time.sleep(0.01)
        return {}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        try:
            query = parse_qs(url.query)
            answer, status = getattr(PEER, url.path[1:])(query["name"][0], query), 200
        except (RuntimeError, OSError, subprocess.SubprocessError) as e:
            answer, status = {"error": str(e)}, 500
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if ALONE.exists():
    for line in ("modprobe virtio_net", "ip addr add 10.0.2.15/24 dev eth0", "ip link set eth0 up"):
        subprocess.run(line.split(), check=True)
    start(json.loads(ALONE.read_text(encoding="utf-8")), ADDRESS="10.0.2.15").wait()
else:
    PEER = Peer()
    http.server.HTTPServer(("127.0.0.1", 9092), Handler).serve_forever()
