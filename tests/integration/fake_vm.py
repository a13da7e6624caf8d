# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a VM's process: a control socket that gives canned answers. Run alone it serves one with a
ledger of its own making on the socket that it is given, to look at what moultctl shows."""
import json
import random
import socket
import sys
import threading

PAGE = 4096
CLASSES = ["user_private", "user_shared", "user_file", "system", "page_cache", "free", "reserved", "template"]
KINDS = ["anonymous", "shmem", "file", "slab", "page_table", "kernel", "free", "reserved"]
FIELDS = ["gpa", "length", "class", "kind", "function", "pid", "va", "file", "file_offset", "prot", "segment", "flags"]
FLAGS = ["dirty", "accessed", "locked", "writeback", "huge", "ksm", "shared", "sample", "offloaded"]
FILES = ["/usr/bin/python3.11"]


def ledger(runs, functions=()):
    """The answer of `pages` whose runs are these: (gpa, pages, class, kind, function)."""
    rows, sums, kinds = [], dict.fromkeys(CLASSES, 0), dict.fromkeys(KINDS, 0)
    for gpa, pages, page_class, kind, function in runs:
        length = pages * PAGE
        of_file = kind == "file"
        rows.append([gpa, length, CLASSES.index(page_class), KINDS.index(kind), function, 300 + function if function else 0,
                     0x7F0000000000 + gpa if function else 0, 0 if of_file else -1, gpa if of_file else 0, 5 if of_file else 3, 0, 1])
        sums[page_class] += length
        if page_class != "template":
            kinds[kind] += length
    templates = sums.pop("template")
    return {"op": "pages", "ok": True, "total_us": 900, "phases": [], "ram_bytes": sum(sums.values()), "classes": sums,
            "template_bytes": templates, "kinds": kinds, "functions": list(functions), "processes": [], "files": FILES,
            "run_fields": FIELDS, "class_names": CLASSES, "kind_names": KINDS, "segment_names": ["none", "runtime", "init", "exec"],
            "flag_names": FLAGS, "runs": rows}


def without_runs(report):
    return {k: v for k, v in report.items() if k not in ("runs", "run_fields", "files")}


class Refusal(Exception):
    """An error as an answer: its code, name and message."""


class FakeVm:
    """Answers each method by what `answers` has for it: an object, a Refusal, or a function of the parameters that returns one of
    these. What was asked is in `calls`."""

    def __init__(self, path, answers):
        self.path, self.answers, self.calls = str(path), answers, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(8)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:  # closed
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with client, client.makefile("rwb") as stream:
            try:
                for line in stream:
                    request = json.loads(line)
                    stream.write(json.dumps({"id": request["id"], **self.answer(request)}).encode() + b"\n")
                    stream.flush()
            except OSError:  # the client has gone
                pass

    def answer(self, request):
        self.calls.append((request["method"], request["params"]))
        answer = self.answers.get(request["method"], Refusal(3, "INVALID_ARGUMENT", f"there is no method {request['method']}"))
        result = answer(request["params"]) if callable(answer) else answer
        if isinstance(result, Refusal):
            return {"error": dict(zip(("code", "name", "message"), result.args))}
        return {"result": result}

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def invented():
    """A guest of 512 MiB with two functions, as memory looks after a while."""
    chance = random.Random(7)
    runs, gpa = [(0, 159, "free", "free", 0), (159 * PAGE, 97, "reserved", "reserved", 0), (256 * PAGE, 9000, "system", "kernel", 0)], 9256 * PAGE
    bands = [("user_private", "anonymous", 4), ("user_private", "anonymous", 7), ("user_file", "file", 4), ("user_shared", "shmem", 7),
             ("page_cache", "file", 0), ("system", "slab", 0), ("free", "free", 0)]
    end = (512 << 20)
    while gpa < end:
        for _ in range(chance.randint(4, 40)):
            weights = [6, 5, 2, 2, 6, 2, 4 + 30 * (gpa > end * 0.7)]
            page_class, kind, function = chance.choices(bands, weights)[0]
            pages = min(chance.choice([1, 1, 2, 4, 16, 64, 256, 512]), (end - gpa) // PAGE)
            if pages:
                runs.append((gpa, pages, page_class, kind, function))
                gpa += pages * PAGE
    runs += [((4 << 30) + i * (8 << 20), 1500, "template", "anonymous", function) for i, function in enumerate((4, 7))]
    functions = []
    for number, name in ((4, "thumb"), (7, "web")):
        own = {c: sum(r[1] for r in runs if r[2] == c and r[4] == number) * PAGE for c in CLASSES}
        functions.append({"id": number, "name": name, "state": "running", "exact": number == 4, "user_private": own["user_private"],
                          "user_shared": own["user_shared"], "user_file": own["user_file"], "template": own["template"], "offloaded": 0,
                          "on_behalf": 620 << 10})
    return ledger(runs, functions)


def main():
    report = invented()
    counters = iter(range(0, 10**9, 137))
    FakeVm(sys.argv[1], {
        "pages": lambda params: report if params.get("runs") else without_runs(report),
        "ps": lambda params: {"functions": [{"id": 4, "name": "thumb", "state": "running", "pid": 312, "memory_bytes": 60 << 20, "anon_bytes": 45 << 20,
                                             "shmem_bytes": 1 << 20, "faults": next(counters), "offloaded_bytes": 0, "recall_faults": 0},
                                            {"id": 7, "name": "web", "state": "running", "memory_bytes": 9 << 20}]},
        "why": {"op": "why", "ok": True, "gpa": 0x1F400000, "hva": 0x7F1234500000, "length": 8192, "run_gpa": 0x1F400000, "class": "user_private",
                "kind": "anonymous", "function": 4, "function_name": "thumb", "pid": 312, "comm": "python3", "va": 0x55D0000, "path": "",
                "file_offset": 0, "prot": "rw-", "segment": "init", "flags": ["dirty"],
                "reason": "It is anonymous memory that function 4 (thumb) alone has mapped."}})
    threading.Event().wait()


if __name__ == "__main__":
    main()
