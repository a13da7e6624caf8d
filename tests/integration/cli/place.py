# SPDX-License-Identifier: Apache-2.0
"""The machine, the namespaces and the limits that a template needs."""

import base64
import contextlib
import hashlib
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import tempfile

import rig
from cli.case import CliCase, SIMPLE
from kill.scenario import GRACE


class PlaceTest(CliCase):
    def test_Template_OfAnotherMachine_IsRefused_BeforeAnyProcess(self):
        victim = self.victim()
        good = self.template(victim)
        needs = self.show(good)["manifest"]["requirements"]
        digest = base64.b64decode(needs["vdso_digest"])
        flag = next(f for f in needs["cpu_flags"] if len(f) > 3).encode()
        cases = {
            "arch": (b"x86_64\0", b"x86_65\0", "it is for x86_65, this machine is x86_64"),
            "page size": (*self.word(good, needs["page_size"], 16384), "page size 16384, here 4096"),
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

    def word(self, good, old, new):
        """The only aligned word of the manifest that is `old`, and `new` in its place, with its neighbours: those bytes alone are elsewhere too."""
        with open(os.path.join(good, "manifest"), "rb") as f:
            content = f.read()
        at, *others = [i for i in range(64, len(content), 4) if content[i:i + 4] == struct.pack("<I", old)]
        self.assertEqual(others, [], f"one field is {old}")
        before, after = content[at - 8:at], content[at + 4:at + 12]
        return before + struct.pack("<I", old) + after, before + struct.pack("<I", new) + after

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
        inner = f'"{self.bin}/workloads/{SIMPLE}" . & wait'
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
        shutil.copy(os.path.join(self.bin, "workloads", SIMPLE + "_static"), small)
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
            self.assertTrue(rig.wait_until(lambda: rig.status_field(found[0], "TracerPid") == "0", GRACE))
            with open(scratch + "/go", "w", encoding="ascii"):
                pass
            result = pathlib.Path(scratch, "result")
            # Made first, then written.
            self.assertTrue(rig.wait_until(lambda: result.exists() and result.stat().st_size > 0, 20), "it goes on")
            self.assertEqual(result.read_text(encoding="ascii"), "pass\n")
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
