#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`moult-bench ledger` in a guest, beside its agent, with functions and a daemon that have memory: how fast guest RAM is classified, and
what functions have touched is cleared, against bare reads of /proc. Prints its table, and which goals are met, which is no error.

    nice -n 0 tests/vm/ledger_bench.py --bin build/dev/bin [--kernel 6.1] [--rounds 7]
"""
import argparse
import json
import pathlib
import sys

from ctl import run_cases
from machine import missing_parts, skip_all
from offload_setting import CPUS, Setting
from rdma_rig import stripped
from trial import expect, scratch

PORT = 9094
FUNCTIONS = ("python", "node", "redis")
PATIENCE = 1500  # seconds for all rounds: the guest may be emulated
# Of functions that are only ways to a service of the guest.
WAYS = "forget, sleep"
# In the guest's own namespaces, as the agent is. GET /N: N rounds.
SERVICE = f"""#!/usr/bin/python3
import http.server, json, subprocess

REPORT = "/run/moult/bench/report.json"

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        done = subprocess.run(["/run/moult/bench/moult-bench", "ledger", "--json", REPORT, "--rounds", self.path[1:]],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        told = {{"code": done.returncode, "out": done.stdout, "err": done.stderr}}
        if done.returncode == 0:
            with open(REPORT, encoding="utf-8") as report:
                told["rows"] = json.load(report)["rows"]
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", {PORT}), Handler).serve_forever()
"""


def verdict(rows):
    return "; ".join(f"{row['name']}: {row['ratio']:.2f} ({row['ratios']['min']:.2f}..{row['ratios']['max']:.2f}) times its peer's time, goal "
                     f"{row['goal']['ratio']:g} {'met' if row['goal']['met'] else 'missed'}" for row in rows)


def ledger_against_raw_reads(s):
    for i, name in enumerate(FUNCTIONS):
        s.answer(name, s.run(name, port=8081 + i))
    bench = s.vm.start("bench", ["/usr/bin/sleep", "1000000"], "--ready", "connect", port=PORT)
    told = json.loads(s.control.get(bench, f"/{s.options.rounds}", seconds=PATIENCE))
    expect(told["code"] == 0, f"moult-bench ledger: exit {told['code']}: {told['err']}")
    print(f"in a guest with {', '.join(FUNCTIONS)} and a daemon, Linux {s.options.kernel}, {s.vm.accel}")
    print("\n".join(line for line in told["out"].splitlines() if not line.startswith(WAYS)))
    print(verdict([row for row in told["rows"] if row["name"] != WAYS]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of moultctl and moult-bench")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True, cpus=CPUS)
    if missing:
        return skip_all(1, missing)
    with scratch() as name:
        folder = pathlib.Path(name)
        service = folder / "service.py"
        service.write_text(SERVICE, encoding="utf-8")
        setting = Setting(options, folder, more=["--payload", f"bench/moult-bench={stripped(pathlib.Path(options.bin) / 'moult-bench', folder)}",
                                                 "--payload", f"init.d/61-ledger-bench={service}"])
        try:
            return run_cases([ledger_against_raw_reads], setting, close=setting.vm.close)
        finally:
            setting.vm.close()


if __name__ == "__main__":
    sys.exit(main())
