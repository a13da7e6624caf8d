# SPDX-License-Identifier: Apache-2.0
"""Files of the process that change."""

import contextlib
import os
import re
import shutil
import threading

import rig
from cli.case import CliCase, SIMPLE


class FilesTest(CliCase):
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
        program = shutil.copy(os.path.join(self.bin, "workloads", SIMPLE), root)
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
