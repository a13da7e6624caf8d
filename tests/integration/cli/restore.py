# SPDX-License-Identifier: Apache-2.0
"""What cannot be restored, and a restore that fails on its way."""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess

import rig
from cli.case import CliCase, THREADED


class RestoreTest(CliCase):
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
        self.fails(victim, path, 7, r"deleted: write its content: ENOSPC \([^;]*\); free memory or disk space$")
        os.unlink(small + "/filler")
        victim.adopt(int(self.expect(0, "restore", path).out))
        victim.go()

    def test_Restore_KeepsItStopped_WhenItWasStopped(self):
        for options in ([], ["--sandbox"]):
            with self.subTest(options=options):
                victim = self.victim(THREADED)
                rig.stop(victim.pid)
                path = self.template(victim, f"t{len(options)}")
                restored = victim.adopt(int(self.expect(0, "restore", path, *options).out))
                # Its threads are let go with a stop before them: on a busy machine the CPU for that comes a moment later.
                self.assertTrue(rig.wait_until(lambda: rig.all_in_state(restored.pid, "T"), 5), rig.describe(restored.pid))
                self.assertEqual(rig.status_field(restored.pid, "TracerPid"), "0")
                rig.resume(restored.pid)
                self.assertTrue(rig.wait_until(lambda: not rig.all_in_state(restored.pid, "T"), 5), rig.describe(restored.pid))
                victim.go(watch=[restored])

    def test_Restore_NamesTheZombie_WhoseParentDoesNotWait(self):
        victim = self.victim()
        path = self.place.template()
        self.expect(0, "dump", victim.pid, path)
        self.assertTrue(rig.wait_until(lambda: rig.state(victim.pid) == "Z", 5))
        self.expect(3, "restore", path, match=rf"pid {victim.pid} is still that of a process that has ended.*process {os.getpid()} .*has not waited for; let the parent wait")
        self.assertTrue(victim.handles[-1].reap(5))
        victim.adopt(int(self.expect(0, "restore", path).out))
        victim.go()
