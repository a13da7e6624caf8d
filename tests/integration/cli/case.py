# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command line share."""

import base64
import os
import shutil
import struct
import subprocess
import unittest

import oracle
import rig

SIMPLE, THREADED = "anon_pattern", "threads_8"


class CliCase(unittest.TestCase):
    bin = None  # folder of moult-image and workloads/

    def setUp(self):
        self.tool = rig.Tool(self.bin, 60)
        self.place = rig.Workplace()
        self.addCleanup(self.place.close)
        self.addCleanup(self.no_leftovers)  # after the victims were closed
        self.victims = 0

    def no_leftovers(self):
        """What one test leaves behind must fail that test, and not the next ones."""
        rig.wait_until(self.reaped, 2)
        left = []
        for pid in rig.children():
            left.append(rig.describe(pid))
            handle = rig.Handle(pid)
            handle.kill()
            handle.reap(5)
            handle.close()
        self.assertEqual(left, [], "processes left behind")

    def victim(self, name=SIMPLE, root=None, **kwargs):
        if not root:
            root = os.path.join(self.place.root, f"v{self.victims}")
            os.mkdir(root, 0o755)
        self.victims += 1
        victim = rig.Victim(os.path.join(self.bin, "workloads", name), root, timeout=30, **kwargs)
        self.addCleanup(victim.close)
        try:
            victim.wait_ready()
        except rig.Skipped as e:
            self.skipTest(str(e))
        victim.picture = oracle.steady(victim.pid)
        return victim

    def expect(self, code, *args, match=None, **kwargs):
        """Runs the tool; checks the exit code, and that an error is one line in our form."""
        outcome = self.tool.run(*args, **kwargs)
        self.assertEqual(outcome.code, code, f"{args}: {outcome.text()}")
        if code not in (0, 2):
            self.assertRegex(outcome.err, r"\Amoult-image: \S+ [^\n]+\n\Z", "one line, with our name")
            self.assertEqual(outcome.out, "", "errors go to stderr only")
        if match:
            self.assertRegex(outcome.err, match)
        return outcome

    def template(self, victim, name="t", leave=False):
        path = self.place.template(name)
        self.expect(0, "dump", victim.pid, path, *(["--leave-running"] if leave else []))
        if not leave:
            self.assertTrue(victim.handles[-1].reap(5), "victim ends with the dump")
        return path

    def unharmed(self, victim):
        self.assertTrue(rig.wait_until(lambda: rig.status_field(victim.pid, "TracerPid") == "0"
                                       and not rig.all_in_state(victim.pid, "Tt"), 2),
                        rig.describe(victim.pid))
        self.assertEqual(oracle.compare(victim.picture, victim.pid, "leave"), [], "what /proc shows of it has changed")
        victim.go()

    def no_process(self, pid):
        """A refused restore has made no process: neither the old pid nor a child of ours."""
        self.assertIsNone(rig.state(pid), f"pid {pid} is there")
        self.assertTrue(rig.wait_until(lambda: not rig.children(), 2),
                        [rig.describe(c) for c in rig.children()])

    def reachable_tool(self):
        """A copy that nobody may execute: the build may lie where only root comes."""
        return shutil.copy(self.tool.path, os.path.join(self.place.root, "moult-image"))

    def tool_as_nobody(self, path, *args):
        return subprocess.run([path, *map(str, args)], user=65534, group=65534, extra_groups=[],
                              capture_output=True, text=True, timeout=30, cwd="/")

    @staticmethod
    def reaped():
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            return False
        except ChildProcessError:
            return True

    def show(self, path):
        return self.expect(0, "show", path, "--json").json()

    def port(self, victim):
        """Of the first IPv4 socket that it has bound."""
        path = self.place.template("for-port")
        self.expect(0, "dump", victim.pid, path, "--leave-running")
        for file in self.show(path)["image"]["open_files"]:
            if file["resource_type"] == "InetSocket" and file["resource"]["address"]:
                address = base64.b64decode(file["resource"]["address"])
                shutil.rmtree(path)
                return struct.unpack(">H", address[2:4])[0]
        self.fail("no socket with an address")

    def fails(self, victim, path, code, match, *options):
        """The restore fails, and neither a process nor a file of it is left."""
        before = self.listing(victim.scratch)
        outcome = self.expect(code, "restore", path, *options, match=match)
        self.no_process(victim.pid)
        self.assertEqual(self.listing(victim.scratch), before, "files come or go")
        return outcome

    @staticmethod
    def listing(top):
        return sorted(os.path.join(folder, name) for folder, folders, files in os.walk(top) for name in folders + files)
