#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The command line of moult-image: exit codes, messages, and what a failure leaves behind (nothing).

`cli_test.py --bin DIR [unittest arguments]`. Needs root; victims come from DIR/workloads.
"""

import argparse
import base64
import contextlib
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

import oracle
import rig

SIMPLE, THREADED = "anon_pattern", "threads_8"
BIN = None


class CliTest(unittest.TestCase):
    def setUp(self):
        self.tool = rig.Tool(BIN, 60)
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
        victim = rig.Victim(os.path.join(BIN, "workloads", name), root, timeout=30, **kwargs)
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

    # --- usage --------------------------------------------------------------------------------

    def test_Usage_Exits2_WhenArgumentsAreWrong(self):
        for args in ([], ["nonsense"], ["dump"], ["dump", "1"], ["dump", "12x", self.place.template()],
                     ["dump", "-5", self.place.template()], ["dump", "0", self.place.template()],
                     ["dump", "99999999999999999999", self.place.template()],
                     ["restore"], ["restore", "a", "b"], ["show"], ["verify"],
                     ["restore", self.place.template(), "--count", "0", "--sandbox"],
                     ["restore", self.place.template(), "--count", "-1", "--sandbox"],
                     ["restore", self.place.template(), "--count", "x", "--sandbox"],
                     ["restore", self.place.template(), "--count", "2"],
                     ["restore", self.place.template(), "--no-such-option"]):
            with self.subTest(args=args):
                outcome = self.expect(2, *args)
                self.assertTrue(outcome.err.strip(), "says what is wrong")
                self.place.expect_only()

    def test_Help_Exits0(self):
        for args in (["--help"], ["dump", "--help"], ["restore", "--help"]):
            outcome = self.expect(0, *args)
            self.assertIn("restore" if len(args) == 1 else "DIR", outcome.out)

    # --- what cannot be dumped ----------------------------------------------------------------

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

    def reachable_tool(self):
        """A copy that nobody may execute: the build may lie where only root comes."""
        return shutil.copy(self.tool.path, os.path.join(self.place.root, "moult-image"))

    def tool_as_nobody(self, path, *args):
        return subprocess.run([path, *map(str, args)], user=65534, group=65534, extra_groups=[],
                              capture_output=True, text=True, timeout=30, cwd="/")

    # --- where the template goes --------------------------------------------------------------

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

    # Names the operation and its object, the reason, and the remedy.
    FD_LIMIT = r"\Amoult-image: (dump|restore) \S+.*: .*(EMFILE|limit is|no room|no descriptor).*\(ulimit -n\)"

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

    # --- what cannot be restored --------------------------------------------------------------

    def test_Restore_Exits4_WhenTemplateIsMissing(self):
        for op in ("restore", "show", "verify"):
            with self.subTest(op=op):
                self.expect(4, op, self.place.template("none"), match="none")

    def test_EmptyDir_IsNoTemplate(self):
        os.mkdir(self.place.template())
        for op in ("restore", "show", "verify"):
            with self.subTest(op=op):
                outcome = self.tool.run(op, self.place.template())
                self.assertIn(outcome.code, (4, 6), outcome.text())

    def test_Restore_Exits3_WhenPidIsTaken(self):
        victim = self.victim()
        path = self.template(victim, leave=True)
        self.expect(3, "restore", path, match=rf"\b{victim.pid}\b")
        self.assertFalse(rig.wait_until(lambda: len(rig.children()) > 1, 0.1), "a process was made")
        self.unharmed(victim)

    def test_Restore_Exits3_WhenTidIsTaken(self):
        victim = self.victim(THREADED)
        tid = rig.tids(victim.pid)[-1]
        path = self.template(victim)
        blocker = self.take_pid(tid)
        if not blocker:
            self.skipTest(f"cannot take tid {tid} again")
        self.expect(3, "restore", path, match=rf"\b{tid}\b")
        self.assertIsNone(rig.state(victim.pid))

    def take_pid(self, wanted):
        """A process of ours with that pid: through ns_last_pid, a few times, since others fork too."""
        for _ in range(20):
            try:
                with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as f:
                    f.write(str(wanted - 1))
            except OSError:
                return None
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            handle = rig.Handle(pid)
            if pid == wanted:
                self.addCleanup(lambda: (handle.kill(), handle.reap(5), handle.close()))
                return handle
            handle.kill()
            handle.reap(5)
            handle.close()
        return None

    def test_TamperedTemplate_IsRefused_BeforeAnyProcess(self):
        victim = self.victim()
        good = self.template(victim)
        other = self.template(self.victim(), "other")
        broken = self.place.template("broken")
        for what, damage in self.damages(good, other):
            with self.subTest(damage=what):
                shutil.rmtree(broken, ignore_errors=True)
                shutil.copytree(good, broken)
                if damage(broken) is False:
                    continue
                codes = [rig.EXIT_DAMAGED, rig.EXIT_REFUSED]
                if what.endswith("removed"):  # the file that makes it a template may be the missing one
                    codes.append(rig.EXIT_NOT_FOUND)
                for op in ("verify", "restore"):
                    outcome = self.tool.run(op, broken, timeout=20)
                    for pid in outcome.out.split() if op == "restore" and outcome.code == 0 else []:
                        handle = rig.Handle(int(pid))
                        handle.kill()
                        handle.reap(5)
                    self.assertIn(outcome.code, codes, f"{op}: {outcome.text()}")
                    self.assertRegex(outcome.err, r"\Amoult-image: " + op)
                    self.no_process(victim.pid)

    @staticmethod
    def damages(good, other):
        """[(what, function of the copy)] for each file of the template."""
        for name in sorted(os.listdir(good)):
            size = os.path.getsize(os.path.join(good, name))

            def flip(at, bit, name=name):
                def damage(path):
                    with open(os.path.join(path, name), "r+b") as f:
                        f.seek(at)
                        byte = f.read(1)[0]
                        f.seek(at)
                        f.write(bytes([byte ^ bit]))
                return damage

            def cut(length, name=name):
                return lambda path: os.truncate(os.path.join(path, name), length)

            def swap(path, name=name):
                theirs = os.path.join(other, name)
                with open(theirs, "rb") as a, open(os.path.join(path, name), "rb") as b:
                    if a.read() == b.read():
                        return False
                return shutil.copy(theirs, os.path.join(path, name)) and None

            if size == 0:
                continue
            yield f"{name}: removed", lambda path, name=name: os.unlink(os.path.join(path, name))
            for length in sorted({0, 1, size // 2, size - 1}):
                yield f"{name}: cut to {length} of {size}", cut(length)
            yield f"{name}: 1 byte longer", cut(size + 1)
            for i in range(16):
                at = (size - 1) * i // 15
                yield f"{name}: bit flip at {at}", flip(at, 1 << i % 8)
            for at in range(min(size, 24)):
                yield f"{name}: bit flip at {at}", flip(at, 0x80 >> at % 8)
            yield f"{name}: of another template", swap
            yield f"{name}: a directory", lambda path, name=name: (
                os.unlink(os.path.join(path, name)), os.mkdir(os.path.join(path, name)))
            yield f"{name}: a FIFO", lambda path, name=name: (
                os.unlink(os.path.join(path, name)), os.mkfifo(os.path.join(path, name)))

    def test_Template_OfSomeOtherVersion_IsRefused(self):
        victim = self.victim()
        path = self.template(victim)
        # Where the version lies is the format's affair; what shows is that no byte of a manifest
        # may become another number unnoticed.
        manifest = [n for n in os.listdir(path) if "manifest" in n]
        self.assertEqual(len(manifest), 1, os.listdir(path))
        name = os.path.join(path, manifest[0])
        with open(name, "rb") as f:
            content = f.read()
        for at in range(0, len(content), max(1, len(content) // 200)):
            with open(name, "wb") as f:
                f.write(content[:at] + bytes([content[at] ^ 2]) + content[at + 1:])
            outcome = self.tool.run("verify", path)
            self.assertIn(outcome.code, (3, 6), f"byte {at}: {outcome.text()}")

    def test_Restore_Exits3_WhenFileVanished(self):
        self.file_changed(os.unlink)

    def test_Restore_Exits3_WhenFileChanged(self):
        def change(path):
            with open(path, "r+b") as f:
                byte = f.read(1)[0]
                f.seek(0)
                f.write(bytes([byte ^ 1]))
        self.file_changed(change)

    def test_Restore_Exits3_WhenFileChangedBackItsTimes(self):
        def change(path):
            info = os.stat(path)
            with open(path, "r+b") as f:
                byte = f.read(1)[0]
                f.seek(0)
                f.write(bytes([byte ^ 1]))
            os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
        self.file_changed(change)

    def test_Restore_Exits3_WhenFileGrew(self):
        def change(path):
            with open(path, "ab") as f:
                f.write(b"more")
        self.file_changed(change)

    def test_Restore_Exits3_WhenFileShrank(self):
        self.file_changed(lambda path: os.truncate(path, os.path.getsize(path) // 2))

    def test_Restore_Exits3_WhenFileIsAnotherType(self):
        def change(path):
            os.unlink(path)
            os.mkdir(path)
        self.file_changed(change)

    def file_changed(self, change):
        """A file that the victim maps privately (its own program) changes after the dump."""
        victim, program = self.victim_of_a_copy()
        path = self.template(victim)
        change(program)
        self.expect(3, "restore", path, match=re.escape(program))
        self.expect(3, "restore", path, "--sandbox", match=re.escape(program))
        self.no_process(victim.pid)

    def victim_of_a_copy(self):
        root = os.path.join(self.place.root, "copy")
        os.mkdir(root, 0o755)
        program = shutil.copy(os.path.join(BIN, "workloads", SIMPLE), root)
        victim = rig.Victim(program, root, timeout=30)
        self.addCleanup(victim.close)
        victim.wait_ready()
        return victim, program

    def test_Restore_Succeeds_WhenFileWasOnlyTouched(self):
        victim, program = self.victim_of_a_copy()
        path = self.template(victim)
        content = shutil.copy(program, program + ".new")
        os.replace(content, program)  # other inode, other times, same bytes: matched by content
        outcome = self.expect(0, "restore", path)
        victim.adopt(int(outcome.out.split()[0]))
        victim.go()

    # --- what it prints -----------------------------------------------------------------------

    def test_Restore_PrintsPids_AndWritesPidfile(self):
        victim = self.victim()
        path = self.template(victim)
        pidfile = os.path.join(self.place.root, "pids")
        outcome = self.expect(0, "restore", path, "--pidfile", pidfile)
        self.assertEqual(outcome.out, f"{victim.pid}\n")
        with open(pidfile, encoding="ascii") as f:
            self.assertEqual(f.read(), outcome.out)
        victim.adopt(int(outcome.out))
        victim.go()

    def test_RestoreSandbox_PrintsOnePidPerLine(self):
        victim = self.victim()
        path = self.template(victim)
        pidfile = os.path.join(self.place.root, "pids")
        outcome = self.expect(0, "restore", path, "--sandbox", "--count", 3, "--pidfile", pidfile)
        self.assertRegex(outcome.out, r"\A(\d+\n){3}\Z")
        with open(pidfile, encoding="ascii") as f:
            self.assertEqual(f.read(), outcome.out)
        handles = [victim.adopt(int(p)) for p in outcome.out.split()]
        for handle in handles:
            self.assertEqual(rig.inner_pid(handle.pid), victim.launched.pid)
        victim.go(3, handles)
        self.assertTrue(rig.wait_until(self.reaped, 5), [rig.describe(c) for c in rig.children()])

    @staticmethod
    def reaped():
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            return False
        except ChildProcessError:
            return True

    def test_Pidfile_ThatCannotBeWritten_LeavesNoProcess(self):
        victim = self.victim()
        path = self.template(victim)
        outcome = self.tool.run("restore", path, "--pidfile", self.place.root + "/no/where")
        self.assertNotIn(outcome.code, (0, 1), outcome.text())
        self.assertIn("no/where", outcome.err)
        self.no_process(victim.pid)

    def test_Json_OfEachCommand(self):
        victim = self.victim()
        path = self.place.template()
        dump = self.expect(0, "dump", victim.pid, path, "--json").json()
        victim.handles[-1].reap(5)
        self.assertEqual(dump["pid"], victim.pid)
        for key in ("stopped_us", "total_us", "user_state_bytes"):
            self.assertIsInstance(dump[key], int, key)
        self.assertLessEqual(dump["stopped_us"], dump["total_us"])
        self.assertTrue(dump["phases_us"])
        for op in ("show", "verify"):
            self.assertIsInstance(self.expect(0, op, path, "--json").json(), dict)
        self.assertIsInstance(self.expect(0, "check", "--json").json(), dict)
        restore = self.expect(0, "restore", path, "--json").json()
        self.assertEqual([p["pid"] for p in restore["processes"]], [victim.pid])
        self.assertIsInstance(restore["total_us"], int)
        self.assertTrue(restore["phases_us"])
        victim.adopt(victim.pid)
        victim.go()

    def test_JsonErrors_AreOneObjectOnStderr(self):
        for args, code, name in ((["verify", self.place.template("none")], 4, "NOT_FOUND"),
                                 (["restore", self.place.template("none")], 4, "NOT_FOUND"),
                                 (["dump", 4194303, self.place.template()], 4, "NOT_FOUND")):
            with self.subTest(args=args):
                outcome = self.tool.run(*args, "--json")
                self.assertEqual(outcome.code, code, outcome.text())
                self.assertEqual(outcome.out, "")
                error = json.loads(outcome.err)["error"]
                self.assertEqual((error["code"], error["exit"]), (name, code))
                self.assertTrue(error["message"])

    def test_Show_TellsWhatIsInside(self):
        victim = self.victim(THREADED)
        path = self.template(victim)
        outcome = self.expect(0, "show", path)
        self.assertIn(str(victim.pid), outcome.out)
        self.assertIn(THREADED, outcome.out)
        self.assertRegex(outcome.out, r"(?i)\bthreads?\b")

    def test_Verify_Exits0_WhenGood(self):
        self.expect(0, "verify", self.template(self.victim()))

    def test_Template_IsPrivateToRoot(self):
        path = self.template(self.victim())
        for name in ["", *os.listdir(path)]:
            mode = os.stat(os.path.join(path, name)).st_mode
            self.assertEqual(mode & 0o077, 0, f"{name or 'DIR'} {oct(mode)}: memory of a process is secret")

    def test_Template_IsNotChangedByUse(self):
        victim = self.victim()
        path = self.template(victim)
        before = self.content(path)
        for _ in range(2):
            outcome = self.expect(0, "restore", path, "--sandbox")
            handle = victim.adopt(int(outcome.out.split()[0]))
            handle.kill()
            handle.reap(5)
        self.assertEqual(self.content(path), before)
        rig.wait_until(self.reaped, 5)

    @staticmethod
    def content(path):
        out = {}
        for name in sorted(os.listdir(path)):
            with open(os.path.join(path, name), "rb") as f:
                out[name] = f.read()
        return out

    # --- the machine and the place ------------------------------------------------------------

    def test_Template_OfAnotherMachine_IsRefused_BeforeAnyProcess(self):
        victim = self.victim()
        good = self.template(victim)
        needs = self.show(good)["manifest"]["requirements"]
        digest = base64.b64decode(needs["vdso_digest"])
        flag = next(f for f in needs["cpu_flags"] if len(f) > 3).encode()
        cases = {
            "arch": (b"x86_64\0", b"x86_65\0", "it is for x86_65, this machine is x86_64"),
            "vdso": (digest, digest[::-1], "vdso of kernel"),
            "cpu": (flag + b"\0", b"?" * len(flag) + b"\0", r"this CPU lacks \?+"),
            "xcr0": (struct.pack("<Q", needs["xsave_features"]), struct.pack("<Q", needs["xsave_features"] ^ 1 << 62), "XSAVE layout"),
            "xsave size": (struct.pack("<I", needs["xsave_size"]), struct.pack("<I", needs["xsave_size"] + 64), "XSAVE layout"),
        }
        for what, (old, new, message) in cases.items():
            with self.subTest(what=what):
                path = self.resigned(good, "manifest", old, new)
                for args in (["verify", path], ["restore", path], ["restore", path, "--sandbox"]):
                    self.expect(3, *args, match=f"template does not fit: .*{message}.*; capture the function")
                self.no_process(victim.pid)

    def show(self, path):
        return self.expect(0, "show", path, "--json").json()

    def resigned(self, good, name, old, new):
        """A copy in which `old` is `new`, with digests that say so: damage is not what is found."""
        path = self.place.template("resigned")
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(good, path)
        files = {}
        for file in ("manifest", "image"):
            with open(os.path.join(path, file), "rb") as f:
                files[file] = f.read()
        self.assertIn(old, files[name], "what is to be changed is there")
        before = hashlib.sha256(files["image"]).digest()
        files[name] = files[name].replace(old, new)
        payload = files["manifest"][64:].replace(before, hashlib.sha256(files["image"]).digest())
        files["manifest"] = files["manifest"][:24] + hashlib.sha256(payload).digest() + files["manifest"][56:64] + payload
        for file, content in files.items():
            with open(os.path.join(path, file), "wb") as f:
                f.write(content)
        return path

    def test_Restore_Exits3_WhenClocksWouldGoBack(self):
        victim = self.victim()
        good = self.template(victim)
        clocks = self.show(good)["image"]
        for clock in ("monotonic_ns", "boottime_ns"):
            with self.subTest(clock=clock):
                old = struct.pack("<q", clocks[clock])
                path = self.resigned(good, "image", old, struct.pack("<q", clocks[clock] + 10**18))
                self.expect(3, "restore", path, match="clock would go back.*use --sandbox")
                self.no_process(victim.pid)
        outcome = self.expect(0, "restore", path, "--sandbox")  # where the clock can be set
        victim.adopt(int(outcome.out))
        victim.go()

    def test_SandboxedTemplate_NeedsASandbox(self):
        victim = self.victim()
        outcome = self.expect(0, "restore", self.template(victim), "--sandbox", "--json").json()
        boxed = victim.adopt(outcome["processes"][0]["pid"])
        path = self.place.template("boxed")
        self.expect(0, "dump", boxed.pid, path)
        self.assertTrue(rig.wait_until(self.reaped, 5), "its init goes with it")
        self.expect(3, "restore", path, match="captured in a sandbox.*use --sandbox")
        self.no_process(victim.launched.pid)
        victim.adopt(int(self.expect(0, "restore", path, "--sandbox").out))
        victim.go()

    def test_Dump_Refuses_WhenItsSandboxHoldsSystemVObjects(self):
        for make, name in ((["-S", "1"], "semaphore set"), (["-Q"], "message queue"), (["-M", "4096"], "shared memory segment")):
            with self.subTest(kind=name):
                victim = self.victim()
                path = self.template(victim, f"of-{make[0]}")
                boxed = victim.adopt(int(self.expect(0, "restore", path, "--sandbox").out))
                subprocess.run(["nsenter", "-t", str(boxed.pid), "--ipc", "ipcmk", *make], check=True, stdout=subprocess.DEVNULL)
                self.expect(3, "dump", boxed.pid, self.place.template("v"), match=f"namespace holds a System V {name}; remove it")
                victim.go()

    def test_Dump_Refuses_WhenPidNamespacesAreNested(self):
        inner = f'"{BIN}/workloads/{SIMPLE}" . & wait'
        script = f"unshare --pid --fork --mount-proc /bin/sh -c '{inner}'; true"
        with self.elsewhere(["unshare", "--pid", "--fork", "--mount-proc", "/bin/sh", "-c", script]) as pid:
            self.expect(3, "dump", pid, self.place.template(), match="nested pid namespaces; run this tool in")

    def test_Dump_Refuses_WhenTheRootIsAnother(self):
        small = os.path.join(self.place.root, "small")
        os.mkdir(small)
        subprocess.run(["mount", "-t", "tmpfs", "none", small], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", small], check=True)
        os.mkdir(small + "/proc")
        os.mkdir(small + "/scratch")
        shutil.copy(os.path.join(BIN, "workloads", SIMPLE + "_static"), small)
        # Its parent is not the namespace's init, so it is its own root that is looked at.
        script = (f'mount -t proc none "{small}/proc"; '
                  f'( chroot "{small}" /{SIMPLE}_static /scratch & wait ) & wait')
        with self.elsewhere(["unshare", "--pid", "--mount", "--fork", "/bin/sh", "-c", script], small + "/scratch") as pid:
            self.expect(3, "dump", pid, self.place.template(), match="another root file system; run this tool inside it")
            self.place.expect_only()

    @contextlib.contextmanager
    def elsewhere(self, argv, scratch=None):
        """Runs a command that starts a victim in namespaces; yields the pid of that victim as it is seen here."""
        scratch = scratch or tempfile.mkdtemp(dir=self.place.root)
        shell = subprocess.Popen(argv, cwd=scratch, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            self.assertTrue(rig.wait_until(lambda: os.path.exists(scratch + "/ready"), 20), "the victim is ready")
            found = [p for p in self.below(shell.pid) if rig.status_field(p, "Name").startswith(SIMPLE)]
            self.assertEqual(len(found), 1, found)
            yield found[0]
            self.assertTrue(rig.wait_until(lambda: rig.status_field(found[0], "TracerPid") == "0", 2))
            with open(scratch + "/go", "w", encoding="ascii"):
                pass
            self.assertTrue(rig.wait_until(lambda: os.path.exists(scratch + "/result"), 20), "it goes on")
            with open(scratch + "/result", encoding="ascii") as f:
                self.assertEqual(f.read(), "pass\n")
        finally:
            for pid in reversed(self.below(shell.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shell.kill()
            shell.wait()

    @staticmethod
    def below(pid):
        found, todo = [], rig.children(pid)
        while todo:
            found.append(todo.pop())
            todo += rig.children(found[-1])
        return found

    def test_Dump_Refuses_WhenAFileWasMountedOver(self):
        victim = self.victim("files_open")
        path = victim.path("read")
        subprocess.run(["mount", "--bind", victim.path("write"), path], check=True)
        try:
            self.expect(3, "dump", victim.pid, self.place.template(), match="read is another file by now.*mounted over.*; restart")
            self.place.expect_only()
        finally:
            subprocess.run(["umount", path], check=True)
        self.unharmed(victim)

    def test_Dump_Exits7_WhenTheProcessMayMapNoMore(self):
        victim = self.victim()
        before = resource.prlimit(victim.pid, resource.RLIMIT_AS)
        size = int(rig.status_field(victim.pid, "VmSize").split()[0]) * 1024
        resource.prlimit(victim.pid, resource.RLIMIT_AS, (size, before[1]))
        self.expect(7, "dump", victim.pid, self.place.template(), match=r"map \d+ bytes for the parasite.*raise its RLIMIT_AS")
        self.place.expect_only()
        resource.prlimit(victim.pid, resource.RLIMIT_AS, before)
        self.unharmed(victim)

    def test_Restore_KeepsWhatItLed(self):
        for leads in ("session", "group", "nothing"):
            with self.subTest(leads=leads):
                victim = self.victim(leads=leads)
                path = self.template(victim, leads)
                victim.adopt(int(self.expect(0, "restore", path).out))
                # What led nothing belongs to whoever made it anew.
                self.assertEqual(os.getsid(victim.pid), victim.pid if leads == "session" else os.getsid(0))
                self.assertEqual(os.getpgid(victim.pid), os.getpgrp() if leads == "nothing" else victim.pid)
                victim.go()

    # --- what comes back changed is told ------------------------------------------------------

    def test_Notes_TellOfAnEstablishedConnection(self):
        victim = self.victim("tcp_established_closed")
        victim.touch("restored")
        self.noted(victim, r"fd \d+: TCP connection 127.0.0.1:\d+ -> 127.0.0.1:\d+ comes back closed")

    def test_Notes_TellOfAConnectionToAnotherProcess(self):
        victim = self.victim("unix_peer_closed")
        victim.touch("restored")
        self.noted(victim, r"fd \d+: unix connection to another process comes back closed")

    def test_Notes_TellOfConnectionsNotYetAccepted(self):
        victim = self.victim("tcp_listen_v4")
        with socket.create_connection(("127.0.0.1", self.port(victim))) as client:
            client.sendall(b"x")  # it is accepted only with data
            rig.wait_until(lambda: False, 0.1)
            notes = self.expect(0, "dump", victim.pid, self.place.template(), "--leave-running", "--json").json()["notes"]
        self.assertEqual(len(notes), 1, notes)
        self.assertRegex(notes[0], r"fd \d+: 1 TCP connections to 127.0.0.1:\d+ that were not accepted yet are lost")

    def test_Notes_TellOfDatagramsNotRead(self):
        victim = self.victim("udp_bound")
        port = self.port(victim)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"lost", ("127.0.0.1", port))
        notes = self.expect(0, "dump", victim.pid, self.place.template(), "--leave-running", "--json").json()["notes"]
        self.assertRegex("\n".join(notes), r"fd \d+: UDP datagrams not read at capture are lost")

    def noted(self, victim, pattern):
        dump = self.expect(0, "dump", victim.pid, self.place.template(), "--json").json()
        victim.handles[-1].reap(5)
        restore = self.expect(0, "restore", self.place.template(), "--json").json()
        for result in (dump, restore, self.show(self.place.template())["image"]):
            self.assertRegex("\n".join(result["notes"]), pattern)
        victim.adopt(restore["processes"][0]["pid"])
        victim.go()

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

    # --- a restore that fails on its way ------------------------------------------------------

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

    def test_Restore_LeavesNothing_WhenThePortIsInUse(self):
        victim = self.victim("tcp_listen_v4")
        port = self.port(victim)
        path = self.template(victim)
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
            other.listen()
            for options in ([], ["--sandbox"]):
                self.fails(victim, path, 3, rf"fd \d+.*:{port}.*EADDRINUSE", *options)
        # Two of them: what the first one has is in the second one's way, and both must go.
        self.fails(victim, path, 3, rf"fd \d+.*:{port}.*EADDRINUSE", "--sandbox", "--count", 2)
        victim.adopt(int(self.expect(0, "restore", path).out))
        victim.go()

    def test_Restore_LeavesNothing_WhenTheSocketFileIsInUse(self):
        victim = self.victim("unix_listen_path")
        path = self.template(victim)
        name = victim.path("listen.sock")
        os.unlink(name)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(name)
            other.listen()
            self.fails(victim, path, 3, "listen.sock: another process serves it; stop")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(name)  # the other one is served as before
        victim.adopt(int(self.expect(0, "restore", path).out))  # nobody's any more
        victim.go()

    def test_Restore_LeavesNothing_WhenALockIsHeld(self):
        victim = self.victim("locks_posix")
        path = self.template(victim)
        with open(victim.path("posix"), "r+b") as other:
            fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 12)
            for options in ([], ["--sandbox"]):
                self.fails(victim, path, 8, r"fd \d+: lock bytes 10\+10 again.*another process holds them", *options)
        victim.adopt(int(self.expect(0, "restore", path).out))
        victim.go()

    def test_Restore_LeavesNothing_WhenTheDiskIsFull(self):
        small = os.path.join(self.place.root, "small")
        os.mkdir(small)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", small], check=True)
        victim = self.victim("file_deleted", root=small)
        path = self.template(victim)
        filler = os.open(small + "/filler", os.O_WRONLY | os.O_CREAT, 0o600)
        with contextlib.suppress(OSError):
            while os.write(filler, bytes(4096)):
                pass
        os.close(filler)
        self.fails(victim, path, 7, "deleted: write its content; free memory or disk space: ENOSPC")
        os.unlink(small + "/filler")
        victim.adopt(int(self.expect(0, "restore", path).out))
        victim.go()

    def test_Restore_NamesTheZombie_WhoseParentDoesNotWait(self):
        victim = self.victim()
        path = self.place.template()
        self.expect(0, "dump", victim.pid, path)
        self.assertTrue(rig.wait_until(lambda: rig.state(victim.pid) == "Z", 5))
        self.expect(3, "restore", path, match=rf"pid {victim.pid} is still that of a process that has ended.*process {os.getpid()} .*has not waited for; let the parent wait")
        self.assertTrue(victim.handles[-1].reap(5))
        victim.adopt(int(self.expect(0, "restore", path).out))
        victim.go()

    # --- files that change --------------------------------------------------------------------

    def test_Files_MayChange_AsFarAsTheProcessDoesNotMind(self):
        victim = self.victim("files_open")
        path = self.template(victim)

        def append(name):
            with open(victim.path(name), "ab") as f:
                f.write(b"more")

        def overwrite(name):
            with open(victim.path(name), "r+b") as f:
                f.write(b"other")

        def clear(name):
            os.truncate(victim.path(name), 0)

        def remove(name):
            remover = os.rmdir if os.path.isdir(victim.path(name)) else os.unlink
            remover(victim.path(name))

        def another_type(name):
            remove(name)
            (os.mknod if os.path.basename(name) in ("cwd", "folder") else os.mkdir)(victim.path(name))

        refused = {append: ("read", "private"), overwrite: ("read", "private"), clear: ("read", "write", "private", "shared"),
                   remove: ("read", "write", "append", "private", "shared", "watched", "fifo", "folder", "cwd"),
                   another_type: ("read", "write", "append", "private", "shared", "watched", "fifo", "folder", "cwd")}
        allowed = {append: ("write", "append", "shared", "watched"), overwrite: ("write", "append", "shared", "watched"),
                   clear: ("append", "watched")}
        for code, cases in ((3, refused), (0, allowed)):
            for change, names in cases.items():
                for name in names:
                    with self.subTest(change=change.__name__, name=name), self.put_back(victim.path(name)):
                        change(name)
                        why = dict(match=re.escape(victim.path(name)) + " (has|is|was).*; put the old file back") if code else {}
                        self.expect(code, "verify", path, **why)
                        if code:
                            self.fails(victim, path, 3, why["match"])
        victim.adopt(int(self.expect(0, "restore", path).out))
        victim.go()

    @contextlib.contextmanager
    def put_back(self, path):
        """Whatever becomes of the name meanwhile: afterwards it is what it was, inode and all."""
        aside, copy = path + ".aside", None
        if os.path.isdir(path):
            os.rename(path, aside)
            os.mkdir(path)
        else:
            os.link(path, aside)
            if os.path.isfile(path):
                with open(path, "rb") as f:
                    copy = f.read()
        try:
            yield
        finally:
            if os.path.isdir(path):
                os.rmdir(path)
            elif os.path.lexists(path):
                os.unlink(path)
            if copy is not None:
                with open(aside, "r+b") as f:
                    f.truncate(0)
                    f.write(copy)
            os.rename(aside, path)

    def test_Dump_Exits8_WhenAFileChangesMeanwhile(self):
        victim = self.victim("files_open")
        path, size = victim.path("read"), 300 << 20
        os.truncate(path, size)  # takes a while to digest
        stop = threading.Event()

        def write():
            with open(path, "r+b") as f:
                while not stop.wait(0.005):
                    os.pwrite(f.fileno(), b"x", size - 1)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            self.expect(8, "dump", victim.pid, self.place.template(), match=re.escape(path) + " was written to.*; try again")
            self.place.expect_only()
            notes = self.expect(0, "dump", victim.pid, self.place.template(), "--leave-running", "--json").json()["notes"]
            self.assertRegex("\n".join(notes), re.escape(path) + " changed.*a restore will be refused")
        finally:
            stop.set()
            writer.join()
        victim.go()

    def test_Check_TellsWhatIsMissing_WhenNotRoot(self):
        outcome = self.tool_as_nobody(self.reachable_tool(), "check")
        self.assertEqual(outcome.returncode, 3, outcome.stdout)
        self.assertRegex(outcome.stdout, r"(?m)^MISSING  cap_sys_admin .*\n +-> run as root")
        features = json.loads(self.tool_as_nobody(self.reachable_tool(), "check", "--json").stdout)
        self.assertFalse(features["usable"])
        for feature in features["features"]:
            self.assertTrue(feature["remedy"] and feature["for"], feature)
        for line in self.expect(0, "check").out.splitlines():
            self.assertNotRegex(line, "^MISSING")

    def test_JsonErrors_AreJson_WhateverFails(self):
        victim = self.victim()
        path = self.template(victim)
        with open("/dev/full", "w", encoding="ascii") as full:
            cases = {
                "usage": (2, dict(args=["restore", "--json", "--no-such-option"])),
                "stdout": (7, dict(args=["show", path, "--json"], stdout=full)),
                "restore to stdout": (7, dict(args=["restore", path, "--json"], stdout=full)),
                "pidfile": (7, dict(args=["restore", path, "--json", "--pidfile", "/dev/full"])),
                "channel": (7, dict(args=["dump", os.getpid(), self.place.template("n"), "--json"],
                                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)))),
            }
            for what, (code, call) in cases.items():
                if what == "channel" and "ASAN_OPTIONS" in os.environ:
                    continue  # its run time needs descriptors itself
                with self.subTest(what=what):
                    kwargs = {"stdout": subprocess.PIPE, **call}
                    done = subprocess.run([self.tool.path, *map(str, kwargs.pop("args"))], stderr=subprocess.PIPE, timeout=30, **kwargs)
                    error = json.loads(done.stderr)["error"]
                    self.assertEqual((done.returncode, error["exit"]), (code, code), error)
                    self.assertTrue(error["message"])
                    self.no_process(victim.pid)

    def test_Check_Exits0(self):
        self.assertTrue(self.expect(0, "check").out.strip())

    def test_OutputThatCannotBeWritten_IsAnError(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run([self.tool.path, "check"], stdout=full, stderr=subprocess.PIPE, timeout=30)
        self.assertNotEqual(done.returncode, 0)
        self.assertGreater(done.returncode, 0, "an error, not a signal")


def main():
    global BIN
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True)
    options, rest = parser.parse_known_args()
    BIN = os.path.abspath(options.bin)
    rig.become_subreaper()
    rig.own_mount_namespace()
    program = unittest.main(argv=[sys.argv[0], *rest], exit=False, verbosity=1)
    result = program.result
    failed = len({str(t).split(" ")[0] for t, _ in result.failures + result.errors})
    skipped = len(result.skipped)
    passed = result.testsRun - failed - skipped
    print(rig.closing_line(passed, failed, skipped))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
