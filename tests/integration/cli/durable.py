# SPDX-License-Identifier: Apache-2.0
"""In which order a dump makes its template lasting: strace tells."""

import os
import re
import subprocess
import tempfile

from cli.case import CliCase

STRACE = "/usr/bin/strace"
CALLS = "write,pwrite64,pwritev,pwritev2,fsync,linkat,rename,renameat,renameat2,kill,pidfd_send_signal"


class DurableTest(CliCase):
    def trace(self, *args):
        """[(call, its arguments, result)] in order; descriptors show their files."""
        with tempfile.NamedTemporaryFile(prefix="moult-strace-", mode="r") as log:
            argv = [STRACE, "-f", "-qq", "-y", "-s", "0", "-o", log.name, "-e", f"trace={CALLS}", "-e", "signal=none", self.tool.path, *map(str, args)]
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            calls, begun = [], {}
            for line in log:
                pid, _, text = line.strip().partition(" ")
                text = text.strip()
                if text.endswith("<unfinished ...>"):
                    begun[pid] = text.removesuffix("<unfinished ...>")
                    continue
                if resumed := re.match(r"<\.\.\. \w+ resumed>", text):
                    text = begun.pop(pid) + text[resumed.end():]
                if call := re.fullmatch(r"(\w+)\((.*)\)\s+= (\S+).*", text):
                    calls.append(call.groups())
        return calls

    @staticmethod
    def of(argument):
        """(number, path) of a descriptor as strace shows it."""
        match = re.match(r"(\d+)<([^<>]*)>", argument)
        return (match[1], match[2]) if match else (None, None)

    def test_Dump_IsOnDisk_BeforeItHasItsName_AndBeforeTheProcessEnds(self):
        if not os.access(STRACE, os.X_OK):
            self.skipTest(f"{STRACE} is not installed")
        victim = self.victim()
        path = self.place.template()
        calls = self.trace("dump", victim.pid, path)
        self.assertTrue(victim.handles[-1].reap(5), "victim ends with the dump")
        renames = [i for i, (call, args, _) in enumerate(calls) if call.startswith("rename") and ".partial-" in args]
        self.assertEqual(len(renames), 1, calls)
        renamed = renames[0]
        self.assertRegex(calls[renamed][1], r'"t\.partial-\d+", .*"t"')
        synced = {}  # path: [where]
        numbers = {}  # number of a descriptor: path, as of its last fsync
        for i, (call, args, result) in enumerate(calls):
            if call == "fsync":
                self.assertEqual(result, "0", args)
                number, name = self.of(args)
                numbers[number] = name
                synced.setdefault(name, []).append(i)
        names = set()
        for i, (call, args, _) in enumerate(calls):
            if call == "linkat":
                name = re.search(r', "(\w+)", AT_SYMLINK_FOLLOW', args)[1]
                content = numbers[re.search(r'"/proc/self/fd/(\d+)"', args)[1]]
            elif call == "fsync" and ".partial-" in os.path.dirname(self.of(args)[1]):
                content = self.of(args)[1]
                name = os.path.basename(content)
            else:
                continue
            names.add(name)
            last_write = max(k for k, (c, a, _) in enumerate(calls) if "write" in c and self.of(a)[1] == content)
            self.assertTrue(any(last_write < at < renamed for at in synced[content]), f"{name}: {calls}")
            self.assertLess(i, renamed)
        self.assertEqual(names, set(os.listdir(path)))
        last_link = max((i for i, (call, _, _) in enumerate(calls) if call == "linkat"), default=0)
        folders = [at for name, all_of in synced.items() if re.search(r"/t\.partial-\d+\Z", name) for at in all_of]
        self.assertTrue(any(last_link < at < renamed for at in folders), f"the partial folder: {calls}")
        parent = [at for at in synced.get(self.place.templates, []) if at > renamed]
        self.assertTrue(parent, f"the parent folder: {calls}")
        ends = [i for i, (call, args, _) in enumerate(calls) if "SIGKILL" in args and call in ("kill", "pidfd_send_signal")]
        self.assertTrue(ends, calls)
        self.assertLess(parent[0], ends[0], "it is ended before its template is sure to last")
