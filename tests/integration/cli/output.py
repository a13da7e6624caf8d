# SPDX-License-Identifier: Apache-2.0
"""Usage, what is printed, and what comes back changed is told."""

import json
import os
import resource
import socket
import subprocess

import rig
from cli.case import CliCase, THREADED


class OutputTest(CliCase):
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
