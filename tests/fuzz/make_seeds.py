#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""make_seeds.py TARGET DIR: writes the inputs that a fuzz target starts from.

They come from what the target reads in earnest: this process's own /proc, or the golden templates, or what a client writes.
The first byte chooses the parser, as in TARGET.cc.
"""

import hashlib
import pathlib
import re
import struct
import sys

PROTOCOL = pathlib.Path(__file__).resolve().parents[2] / "protocol"
GOLDEN = PROTOCOL / "golden"
PROC_FILES = [  # In the order of kParsers in proc_fuzz.cc.
    "self/maps", "self/smaps", "self/status", "self/stat", "self/fdinfo/0", "self/mountinfo", "self/limits",
    "self/timers", "locks", "net/unix", "net/tcp", "self/auxv", "self/timens_offsets", "cpuinfo", "timer_list", "self/pagemap",
    "self/schedstat", "self/syscall", "self/oom_score_adj", "net/igmp", "net/igmp6", "self/numa_maps",
]
MAX_LENGTH = 16384
MANIFEST_HEADER = 64
OPERATIONS = 21
ATTACH, ATTACH_COPY, REPURPOSE, PAGES, WHY, OFFLOAD, SWEEP = 11, 12, 13, 14, 16, 19, 20  # In session_fuzz.cc.
NEXT, DATA, RAW = 253, 254, 255  # Lengths in session_fuzz.cc: another connection's; a data frame; the rest is not framed.

FUNCTION = (b'{"name": "f", "argv": ["a", "b"], "env": ["A=1"], "cwd": "/", "uid": 1, "gid": 2, "memory_limit": 9, '
            b'"cpu_limit_milli": 500, "pids_limit": 7, "endpoint": {"kind": "tcp", "port": 80}, "readiness": '
            b'{"kind": "http_get", "path": "/", "timeout_ms": 5}, "before_capture": {"kind": "command", "command": ["x"]}, '
            b'"after_attach": {"kind": "http_get", "path": "/y"}}')


def kinds(union):
    """How many kinds of messages the schema has."""
    schema = (PROTOCOL / "schema" / "rpc.fbs").read_text(encoding="utf-8")
    return len(re.search(r"union %s \{(.*?)\}" % union, schema, re.DOTALL)[1].split(","))


REQUESTS, RESPONSES = kinds("RequestBody"), kinds("ResponseBody") + 1  # A CaptureReport with pages, and one without.
# In the order of Responses() in messages.cc.
LIST, FUNCTION_REPLY, DETACH_REPORT, DONE, PAGES_REPORT = 3, 4, RESPONSES - 3, RESPONSES - 2, RESPONSES - 1


def head(path):
    with open(path, "rb") as file:
        return file.read(MAX_LENGTH)


def proc_fuzz():
    for parser, name in enumerate(PROC_FILES):
        try:
            yield bytes([parser]) + head(pathlib.Path("/proc") / name)
        except OSError:  # This kernel does not have it, or it has no such place.
            yield bytes([parser]) + bytes(8)
    yield bytes([len(PROC_FILES)]) + unix_diag()


def unix_diag():
    """An answer about a listening socket: its peer, one that waits, its queue, shutdown, the file that it is bound to."""
    attributes = [(2, struct.pack("<I", 77)), (3, struct.pack("<I", 78)), (4, struct.pack("<II", 1, 128)), (6, b"\0"),
                  (1, struct.pack("<II", 5, 1 << 20))]
    body = struct.pack("<BBBBIII", 1, 1, 10, 0, 4711, 0, 0)
    for kind, data in attributes:
        body += struct.pack("<HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
    return struct.pack("<IHHII", 16 + len(body), 20, 0, 0, 0) + body


def template_fuzz():
    for version in sorted(path for path in GOLDEN.iterdir() if path.is_dir()):
        manifest = (version / "manifest").read_bytes()
        yield b"\0" + manifest
        yield b"\1" + manifest[MANIFEST_HEADER:]
        yield b"\2" + (version / "image").read_bytes()
        yield b"\3" + manifest[MANIFEST_HEADER:]
    for changes in (b"\0", b"\0\x10\0\1", b"\0\0\4\x80"):
        yield b"\4" + changes
        yield b"\5" + changes


def rpc_fuzz():
    header = b"MLTP\2\0\0\0" + bytes(7) + b"\1" + bytes(8)
    for start in (bytes(24), header, header[:20]):
        yield b"\4" + start
        yield b"\5" + start
    yield b"\5F12345678F87654321F"
    yield b"\6" + bytes(32)
    yield b"\7\0"
    for message in range(REQUESTS):
        yield bytes([2, message])
    for message in range(RESPONSES):
        yield bytes([3, message])
    # Of the report nothing is changed; of good runs nothing, then in the third the class.
    for changes in (b"\0\0", b"\0\0\xa4\0\1", b"\0\0\x08\0\1"):
        yield b"\x09" + changes
    yield b"\x08\0" + bytes(56)
    yield b"\x08\0" + struct.pack("<QQQQQIIBBBBxxxx", 1 << 32, 4096, 0, 0, 0, 0, 0, 5, 1, 0, 0) * 2


def session_fuzz():
    """Each operation, by either way, with each answer; then captures and detaches that go on."""
    for operation in range(OPERATIONS):
        for response in range(RESPONSES):
            yield bytes([operation, 1, 1, response])
        yield bytes([operation, 3, 1, DONE])
        yield bytes([operation, 1, RAW]) + b"MLTP\2\0\0\0"
    yield bytes([0, 6]) + b"OK 12\n"
    yield bytes([0, 6]) + b"NO\n"
    done = bytes([1, DONE])
    yield bytes([5, 1, 1, 5]) + done * 3
    yield bytes([6, 1, 1, 5]) + done * 3
    detached = done + bytes([1, DETACH_REPORT]) + done * 3
    yield bytes([7, 1]) + detached
    function, listed = bytes([1, FUNCTION_REPLY]), bytes([1, LIST])
    for operation in (ATTACH, ATTACH_COPY):
        yield bytes([operation, 1]) + function + done
        yield bytes([operation, 1]) + done + function + done
    yield bytes([REPURPOSE, 1]) + done + function + detached
    # As MustMove() has them, in the order of MoveResponses(): an offload that goes well, and one of runs that are others'.
    for report, run in ((b"\1\4", b"\1\0"), (b"\1\4", b"\4\0\x20\0\x0f"), (b"\1\4", b"\4\0\x01\0\x10"), (b"\1\5", b"\1\1")):
        start = b"\1\1\1\3" + report + bytes([DATA]) + run + bytes([NEXT])
        yield bytes([OFFLOAD, 1]) + start + b"\1\3"
        yield bytes([SWEEP, 1]) + start + b"\1\2" + bytes([NEXT]) + b"\1\5" + bytes([DATA]) + b"\1\1"
    for operation in (PAGES, PAGES + 1, WHY):
        report = bytes([1, PAGES_REPORT])
        yield bytes([operation, 1]) + report + bytes([DATA, 0]) + listed
        yield bytes([operation, 1]) + report + bytes([DATA, 4, 0, 0xa4, 0, 1]) + listed
        yield bytes([operation, 1]) + report + listed


def control_fuzz():
    for request in ('"hello"', '"ps"', '"templates.list"', '"templates.show", "params": {"name": "t"}', '"freeze", "params": {"function": 7}',
                    '"logs", "params": {"function": 7, "follow": true, "tail_bytes": 9}', '"invoke", "params": {"function": 1000}',
                    '"attach", "params": {"name": "t", "pages": "copy", "timeout_ms": 5}',
                    '"capture", "params": {"function": 404, "name": "t", "end": true}',
                    '"fork", "params": {"function": 7, "name": "t", "to": "file:/p", "keep": true}',
                    '"repurpose", "params": {"function": 3, "name": "t"}', '"run", "params": {"function": %s}' % FUNCTION.decode()):
        yield b'\0{"id": 1, "method": %s}' % request.encode()
    yield b'\1{"code": 5, "name": "NOT_FOUND", "message": "no function 7"}'
    yield b"\2control=/c,ram=ram+more,window=w,vsock=uds:/a,,b,port=7,store=/s,tenant=t,cross_tenant=on,name=n,log=/l,debug=off"


def spec_fuzz():
    yield FUNCTION


def agent_fuzz():
    yield (b'\0{"unix_path": "/a", "vsock_port": 9, "allowed_cids": [2], "verbs": ["List"], "state_dir": "/b", "cgroup_root": "/c", '
           b'"require_cgroup": false, "warm_shells": 2, "keep_templates": 1, "max_connections": 3, "log_bytes": 4096, "hold_ms": 1}')
    yield b'\1{"drop": false, "done": true, "state": 3, "pid": 7, "inner_pid": 8, "end_reason": "killed"}'
    yield b'\2{"name": "f", "state": "Running", "pid": 7, "init_pid": 8, "init_start": 9, "shell": false, "info": "AAAA"}'
    yield b"\3" + b"00001000-0009fbff : System RAM\n  00002000-00003000 : x\n100000000-13fffffff : System RAM\n"
    yield b"\4" + b"70 1 10000000 10003000\n70 2 10003000 10004000\n71 2 7f0000000000 7f0000001000\n"


def dax_fuzz():
    """A superblock, and a directory of two templates, in 256 blocks of 4 KiB; see host-lib/src/pool/dax/layout.cc."""
    superblock = struct.pack("<8sIIQQQQ16s", b"MOULTDAX", 1, 0, 256 * 4096, 4096, 4096, 57344, bytes(16))
    yield b"\0" + superblock + hashlib.sha256(superblock).digest()
    entries = b""
    for number, runs in ((1, [(40, 2)]), (2, [(42, 1), (50, 1)])):
        entries += struct.pack("<QQQQ32s64s64sII", number, 4096, 100, 100, bytes(32), b"template%d" % number, b"red", len(runs), 0)
        entries += b"".join(struct.pack("<II", *run) for run in runs)
    yield b"\1" + struct.pack("<QQQQ32s", 5, 3, 2, len(entries), bytes(32)) + entries  # The target makes the checksum.


def rdma_fuzz():
    """Each message of host-lib/src/pool/rdma/messages.h, whole and as its fields alone; a connection request; keys."""
    name, layout, nonce = struct.pack("<H", 4) + b"name", struct.pack("<QQQ", 8192, 5, 6), bytes(range(32))
    region = struct.pack("<QI", 4096, 77) + layout
    entries = struct.pack("<H", 2) + b"".join(struct.pack("<H", 1) + one + nonce + struct.pack("<Q", 9) for one in (b"a", b"b")) + b"\1"
    token, loan = nonce[:16], struct.pack("<Q", 8192)
    requests = [nonce, nonce, name, name, b"", name, name + layout, b"", loan, token, token]
    replies = [nonce, nonce, entries, nonce + region, struct.pack("<QQQQQ", 1, 2, 3, 4, 5), region, b"", b"\5" + name,
               token + struct.pack("<QI", 4096, 77) + loan]
    for number, (kinds_of, first) in enumerate(((requests, 0), (replies, 0x100))):
        for index, fields in enumerate(kinds_of):
            kind = struct.pack("<H", first + index)
            yield bytes([number]) + b"MTPL\2\0" + kind + struct.pack("<II", 16 + len(fields), 42) + fields
            yield bytes([2 + number]) + kind + fields
    yield b"\4" + b"MTPL\2\0\0\0" + bytes(range(16)) + bytes(32)
    yield b"\5# tenants\n\nred " + b"0f" * 32 + b"\n- " + b"1e" * 32 + b" read-only\n"


TARGETS = {target.__name__: target for target in
           (proc_fuzz, template_fuzz, rpc_fuzz, session_fuzz, control_fuzz, spec_fuzz, agent_fuzz, dax_fuzz, rdma_fuzz)}


def main():
    target, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(TARGETS[target]()):
        (folder / f"seed-{number}").write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
