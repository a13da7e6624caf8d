# SPDX-License-Identifier: Apache-2.0
"""What cannot be dumped, and where the template goes."""

import os
import re
import resource
import shutil
import subprocess

import oracle
import rig
from cli.case import CliCase, THREADED


class DumpTest(CliCase):
    # Names the operation and its object, the reason, and the remedy.
    FD_LIMIT = r"\Amoult-image: (dump|restore) \S+.*: .*(EMFILE|limit is|no room|no descriptor).*\(ulimit -n\)"

    def test_Dump_Exits4_WhenPidIsMissing(self):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        self.expect(4, "dump", pid, self.place.template(), match=str(pid))
        self.place.expect_only()

    def test_Dump_Refuses_WhenZombie(self):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        rig.wait_until(lambda: rig.state(pid) == "Z", 5)
        outcome = self.tool.run("dump", pid, self.place.template())
        os.waitpid(pid, 0)
        self.assertIn(outcome.code, (3, 4), outcome.text())
        self.assertIn(str(pid), outcome.err)
        self.place.expect_only()

    def test_Dump_Refuses_WhenKernelThread(self):
        kernel = [int(p) for p in os.listdir("/proc") if p.isdigit()
                  and rig.status_field(p, "Kthread") == "1"] or (
                      [2] if os.path.exists("/proc/2") and not os.path.exists("/proc/2/exe") else [])
        if not kernel:
            self.skipTest("no kernel thread is visible here")
        self.expect(3, "dump", kernel[0], self.place.template(), match="(?i)kernel thread")
        self.place.expect_only()

    def test_Dump_Refuses_WhenItIsTheToolItself(self):
        # A shell that becomes the tool knows the pid that the tool will have.
        script = f'exec "{self.tool.path}" dump $$ "{self.place.template()}"'
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertRegex(done.stderr, "(?i)itself|own process|this process")
        self.place.expect_only()

    def test_Dump_Refuses_WhenPid1(self):
        # In a pid namespace of our own, so that a tool that does not refuse ends only that.
        script = (f'"{self.tool.path}" dump 1 "{self.place.template()}"; code=$?; '
                  'test -d /proc/1 && echo "alive $code"')
        done = subprocess.run(["/usr/bin/unshare", "--pid", "--fork", "--mount-proc", "/bin/sh", "-c", script],
                              capture_output=True, text=True, timeout=30)
        self.assertEqual(done.stdout.strip(), "alive 3", done.stderr)
        self.assertRegex(done.stderr, r"(?i)pid 1\b|init")
        self.place.expect_only()

    def test_Dump_Refuses_WhenTraced(self):
        victim = self.victim()
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long] * 4
        self.assertEqual(libc.ptrace(0x4206, victim.pid, 0, 0), 0)  # PTRACE_SEIZE
        try:
            self.expect(3, "dump", victim.pid, self.place.template(), match="(?i)trace")
            self.place.expect_only()
        finally:
            victim_stopped = libc.ptrace(0x4207, victim.pid, 0, 0)  # PTRACE_INTERRUPT
            self.assertEqual(victim_stopped, 0)
            os.waitpid(victim.pid, 0)
            self.assertEqual(libc.ptrace(17, victim.pid, 0, 0), 0)  # PTRACE_DETACH
        victim.go()

    def test_Dump_Exits5_WhenNotRoot(self):
        victim = self.victim()
        os.chmod(self.place.templates, 0o777)
        copy = self.reachable_tool()
        for args in (["dump", victim.pid, self.place.template()],):
            outcome = self.tool_as_nobody(copy, *args)
            self.assertEqual(outcome.returncode, 5, outcome.stderr)
            self.assertRegex(outcome.stderr, r"\Amoult-image: dump [^\n]+\n\Z")
        self.place.expect_only()
        self.unharmed(victim)

    def test_Restore_Exits5_WhenNotRoot(self):
        victim = self.victim()
        path = self.template(victim)
        for folder, _, files in os.walk(path):
            os.chmod(folder, 0o755)
            for name in files:
                os.chmod(os.path.join(folder, name), 0o644)
        outcome = self.tool_as_nobody(self.reachable_tool(), "restore", path)
        self.assertEqual(outcome.returncode, 5, outcome.stderr)
        self.no_process(victim.pid)

    def test_Dump_Exits3_WhenDirIsNotEmpty(self):
        victim = self.victim()
        path = self.place.template()
        os.mkdir(path)
        with open(path + "/mine", "w", encoding="ascii") as f:
            f.write("keep")
        self.expect(3, "dump", victim.pid, path, match="(?i)empty")
        self.assertEqual(os.listdir(path), ["mine"])
        with open(path + "/mine", encoding="ascii") as f:
            self.assertEqual(f.read(), "keep")
        self.unharmed(victim)

    def test_Dump_Succeeds_WhenDirIsEmpty(self):
        victim = self.victim()
        os.mkdir(self.place.template())
        self.expect(0, "dump", victim.pid, self.place.template(), "--leave-running")
        self.expect(0, "verify", self.place.template())
        self.unharmed(victim)

    def test_Dump_Fails_WhenDirIsAFile(self):
        victim = self.victim()
        with open(self.place.template(), "w", encoding="ascii") as f:
            f.write("keep")
        self.expect(3, "dump", victim.pid, self.place.template(), match=re.escape(self.place.template()))
        self.place.expect_only("t")
        self.unharmed(victim)

    def test_Dump_Fails_WhenParentIsMissing(self):
        victim = self.victim()
        outcome = self.tool.run("dump", victim.pid, self.place.template("no/where"))
        self.assertIn(outcome.code, (3, 4), outcome.text())
        self.assertIn("no", outcome.err)
        self.assertRegex(outcome.err, "(?i)no such file|not exist|missing|ENOENT|not found")
        self.place.expect_only()
        self.unharmed(victim)

    def test_Dump_Exits7_WhenDiskIsFull(self):
        # The mount namespace is this test's own (main), so the victim shares it and nobody else sees it.
        victim = self.victim()
        for size in ("4k", "64k", "256k"):
            with self.subTest(size=size):
                small = os.path.join(self.place.root, "small-" + size)
                os.mkdir(small)
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", small], check=True)
                try:
                    self.expect(7, "dump", victim.pid, small + "/t", match="(?i)no space|ENOSPC|full")
                    self.assertEqual(os.listdir(small), [], "nothing is left")
                finally:
                    subprocess.run(["umount", small], check=True)
        self.unharmed(victim)

    def test_Dump_Exits7_WhenFdLimitIsLow(self):
        if "ASAN_OPTIONS" in os.environ:
            self.skipTest("without a free descriptor UndefinedBehaviorSanitizer takes good objects for bad ones")
        victim = self.victim(THREADED)
        for limit in self.low_limits(4, 6, 8):
            with self.subTest(limit=limit):
                outcome = self.limited(limit, "dump", victim.pid, self.place.template(), "--leave-running")
                if outcome.code == 0:  # that many were enough
                    shutil.rmtree(self.place.template())
                    continue
                self.assertEqual(outcome.code, 7, outcome.text())
                self.assertRegex(outcome.err, self.FD_LIMIT)
                self.place.expect_only()
        self.unharmed(victim)

    def test_Restore_Exits7_WhenFdLimitIsLow(self):
        victim = self.victim(THREADED)
        path = self.template(victim)
        for limit in self.low_limits(4, 5, 6):
            with self.subTest(limit=limit):
                outcome = self.limited(limit, "restore", path)
                self.assertEqual(outcome.code, 7, outcome.text())
                self.assertRegex(outcome.err, self.FD_LIMIT)
                self.no_process(victim.pid)

    def test_ManyDescriptors_AreRefused_WhenFdLimitIsAmongThem(self):
        victim = self.victim("fd_1000")
        for limit in (16, 64, 512):
            with self.subTest(op="dump", limit=limit):
                outcome = self.limited(limit, "dump", victim.pid, self.place.template(), "--leave-running")
                self.assertEqual(outcome.code, 7, outcome.text())
                self.assertRegex(outcome.err, self.FD_LIMIT)
                self.place.expect_only()
        self.assertEqual(oracle.compare(victim.picture, victim.pid, "leave"), [])
        path = self.template(victim)
        for limit in (16, 64, 512, 1010):
            with self.subTest(op="restore", limit=limit):
                outcome = self.limited(limit, "restore", path)
                self.assertEqual(outcome.code, 7, outcome.text())
                self.assertRegex(outcome.err, self.FD_LIMIT)
                self.no_process(victim.pid)

    @staticmethod
    def low_limits(*limits):
        """AddressSanitizer's run time needs some itself before main, and ends without them."""
        return [n for n in limits if n > 5 or "ASAN_OPTIONS" not in os.environ]

    def limited(self, files, *args):
        return self.tool.run(*args, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))
