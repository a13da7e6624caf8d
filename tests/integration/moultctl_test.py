#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""moultctl without a VM: its command line, and all that it can do straight at an agent on a unix socket."""
import argparse
import base64
import fcntl
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "vm"))
from ctl import SERVER, Ctl, expect, run_cases  # noqa: E402

CASES = []
COMMANDS = ["vm", "hello", "doctor", "status", "metrics", "ps", "pages", "why", "map", "top", "freeze", "thaw", "kill", "forget", "logs", "run",
            "invoke", "capture", "fork", "attach", "detach", "repurpose", "templates", "pool", "completion"]


def case(function):
    CASES.append(function)
    return function


class Agent:
    """A real agent, natively."""

    def __init__(self, bin_dir, folder, **config):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self.socket = self.folder / "sock"
        (self.folder / "conf").write_text(json.dumps({
            "vsock_port": 0, "unix_path": str(self.socket), "state_dir": str(self.folder / "state"),
            "cgroup_root": "/nonexistent/x", "require_cgroup": False, **config}), encoding="utf-8")
        self.process = subprocess.Popen([bin_dir / "moult-agent", "--config", self.folder / "conf"], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for line in self.process.stderr:
            if line == b"moult-agent: ready\n":
                return
        raise OSError(f"the agent ended with {self.process.wait()}")

    def close(self, ctl):
        """Functions outlive their agent: they are ended first."""
        for function in ctl.json("ps")["functions"]:
            if function["state"] != "ended":
                ctl.run("kill", function["id"])
        self.process.terminate()
        self.process.wait(30)
        self.process.stderr.close()


class Setting:
    def __init__(self, bin_dir, folder):
        self.bin, self.folder = bin_dir, folder
        self.program = bin_dir / "moultctl"
        self.plain = Ctl(self.program)
        self.agent = Agent(bin_dir, folder / "agent")
        self.store = folder / "store"
        self.nobody = socket.socket(socket.AF_UNIX)
        self.nobody.bind(str(folder / "nobody"))
        self.nobody.listen()
        nobody = Ctl(self.program, "--control", folder / "nobody")
        self.silent = [nobody.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for words in (["ps"], ["invoke", "1", "/"])]
        self.ctl = Ctl(self.program, "--agent", f"unix:{self.agent.socket}", "--store", self.store)


@case
def help_teaches(s):
    top = s.plain.ok("--help").out.decode()
    for text in (*COMMANDS, "Exit codes:", "export MOULT_CONTROL=$(moultctl vm --detach)", "--json"):
        expect(text in top, f"--help lacks {text!r}")
    for command in COMMANDS:
        words = {"templates": ["templates", "show"], "pool": ["pool", "ls"]}.get(command, [command])
        text = s.plain.ok(*words, "--help").out.decode()
        expect("Example:" in text and f"moultctl {' '.join(words)}" in text, f"{command} --help has no example: {text}")
    expect(s.plain.ok("--version").out.strip().count(b".") == 2, "--version")


@case
def wrong_command_lines_exit_2(s):
    for text, words in (("subcommand", []), ("frobnicate", ["frobnicate"]), ("NAME", ["capture", "web"]),
                        ("--pages", ["attach", "t", "--pages", "by_mail"]), ("--kernel", ["vm", "--kernel", "2.4"]),
                        ("--window: 1000: must be a power of two", ["vm", "--window", "1000"]), ("--window", ["vm", "--window", "-4"]),
                        ("which VM", ["hello"]), ("not both", ["--control", "/a", "--agent", "vsock:3", "hello"]),
                        ("must be vsock:CID", ["--agent", "tcp:1", "hello"]), ("must be vsock:CID", ["--agent", "vsock:0", "hello"]),
                        ("needs a --name", ["--agent", "unix:/x", "run", "--", "a", "b"]), ("SHELL", ["completion", "csh"]),
                        ("--width", ["map", "--width", "4"]), ("--interval", ["top", "--interval", "0"]), ("--count", ["top", "--count", "0"]),
                        ("ADDRESS", ["why"]), ('must be "Name: value"', ["invoke", "web", "-H", "bad"]), ("--to", ["fork", "web"])):
        s.plain.fails(2, text, *words)
    for text, words in (("tcp:PORT", ["--endpoint", "tcp:0"]), ("line:TEXT", ["--ready", "soon"]), ("--memory", ["--memory", "many"]),
                        ("--cpu", ["--cpu", "0"])):
        s.ctl.fails(2, text, "run", "--name", "f", *words, "--", "true")


@case
def environment_names_the_vm_when_nothing_else_does(s):
    by_environment = Ctl(s.program, env={"MOULT_CONTROL": "/nonexistent/socket"})
    by_environment.fails(4, "/nonexistent/socket", "hello")
    expect("hello" in Ctl(s.program, *s.ctl.options, env=by_environment.env | {"MOULT_CONTROL": "/nonexistent"}).json("hello"),
           "--agent gives way to the environment")


@case
def completion_completes(s):
    script = s.plain.ok("completion", "bash").out.decode()
    for words, wanted in ((["moultctl", ""], {"repurpose", "vm", "templates", "--json"}),
                          (["moultctl", "templates", ""], {"list", "show", "verify", "remove"}),
                          (["moultctl", "map", "--"], {"--png", "--svg", "--width", "--hilbert"}), (["moultctl", "t"], {"top", "thaw", "templates"}),
                          (["moultctl", "pages", "--"], {"--runs", "--against"}),
                          (["moultctl", "fork", "--"], {"--to", "--name", "--keep", "--pages"}), (["moultctl", "fo"], {"fork", "forget"}),
                          (["moultctl", "--json", "attach", "--p"], {"--pages"})):
        asked = f"{script}\nCOMP_WORDS=({' '.join(repr(w) for w in words)}); COMP_CWORD={len(words) - 1}; _moultctl; echo \"${{COMPREPLY[@]}}\""
        got = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout.split()
        expect(wanted <= set(got), f"{words} is completed by {got}")
    expect(s.plain.ok("completion", "zsh").out.startswith(b"#compdef moultctl"), "zsh")
    expect(b"complete -c moultctl" in s.plain.ok("completion", "fish").out, "fish")


@case
def questions_have_the_members_that_are_promised(s):
    hello = s.ctl.json("hello")["hello"]
    for key in ("version", "agent_version", "features", "verbs", "boot_id", "kernel_release", "windows", "struct_pages", "ram_bytes"):
        expect(key in hello, f"hello lacks {key}")
    expect(b"kernel" in s.ctl.ok("hello").out, "hello in words")
    checks = s.ctl.run("--json", "doctor")
    told = checks.json()["checks"]
    expect(all({"name", "ok", "detail", "remedy"} <= set(c) for c in told) and told, f"doctor: {told}")
    expect(checks.code == (0 if all(c["ok"] for c in told) else 3), f"doctor: exit {checks.code}")
    s.ctl.fails(3, "only a VM's process has it", "status")


@case
def function_runs_answers_and_is_listed(s):
    function = s.ctl.run_server("web", "--env", "A=1")
    listed = {f["id"]: f for f in s.ctl.json("ps")["functions"]}[function]
    expect(listed["name"] == "web" and listed["state"] == "running" and listed["spec"]["env"] == ["A=1"], f"ps: {listed}")
    expect(s.ctl.ok("invoke", "web", "/x").out == b"GET /x", "invoke by name")
    expect(s.ctl.ok("invoke", function, "/x", "-d", "@-", stdin=b"body").out == b"POST /x", "invoke by id, with a body")
    expect(s.ctl.ok("invoke", "web", "-X", "PUT").out == b"PUT /", "another method")
    with_headers = s.ctl.ok("invoke", "-i", "web", "/").out
    expect(with_headers.startswith(b"HTTP/1.1 200 OK\r\n") and with_headers.endswith(b"\r\n\r\nGET /"), f"-i: {with_headers}")
    told = s.ctl.json("invoke", "web", "/x")
    expect(told["status"] == 200 and told["body"] == "GET /x" and "Content-Length" in told["headers"] and told["total_us"] > 0, f"{told}")
    expect(s.ctl.run("invoke", "web", "/fail").code == 0 and s.ctl.run("invoke", "--fail", "web", "/fail").code == 1, "--fail")
    s.ctl.fails(8, "larger --timeout", "invoke", "--timeout", "300", "web", "/slow")


@case
def bytes_come_as_they_are(s):
    everything = bytes(range(256))
    expect(s.ctl.ok("invoke", "web", "/bytes").out == everything, "invoke changes bytes")
    told = s.ctl.json("invoke", "web", "/bytes")
    expect("body" not in told and base64.b64decode(told["body_base64"]) == everything, f"invoke --json: {told}")
    s.ctl.ok("invoke", "web", "/raw")
    expect(s.ctl.ok("logs", "web").out == "listening, café\n".encode() + b"\xff\xfe\n", "logs change bytes")
    pieces = [json.loads(line) for line in s.ctl.ok("--json", "logs", "web").out.splitlines()]
    joined = b"".join(base64.b64decode(p["log_base64"]) if "log_base64" in p else p["log"].encode() for p in pieces)
    expect(joined == "listening, café\n".encode() + b"\xff\xfe\n", f"logs --json: {pieces}")
    expect(s.ctl.ok("logs", "--tail", "3", "web").out == b"\xff\xfe\n", "--tail")


@case
def followed_character_in_two_pieces_stays_one(s):
    function = s.ctl.run_server("splitter")
    follower = s.ctl.start("--json", "logs", "-f", function, stdout=subprocess.PIPE)
    try:
        s.ctl.ok("invoke", function, "/split")
        s.ctl.ok("kill", function)
        s.ctl.ok("forget", function)
        out = follower.communicate(timeout=60)[0]
    finally:
        follower.kill()
        follower.wait()
    pieces = [json.loads(line) for line in out.splitlines()]
    expect(all(set(p) == {"log"} for p in pieces), f"a character was cut: {pieces}")
    expect("".join(p["log"] for p in pieces).endswith("<é>\n"), f"{pieces}")


def shows_progress(ctl, what, *words):
    """Shown after a second, and wiped in the end."""
    shown, code = ctl.on_terminal(*words)
    expect(code == 0, f"{words}: exit {code}: {shown!r}")
    # A busy machine may show none of the first ones.
    expect(re.search(rf"{what}: [1-9]\d*\.", shown) and f"{what}: 0." not in shown, f"{words}: no progress on a terminal: {shown!r}")
    expect(shown.endswith("\r\x1b[K"), f"{words}: progress stays: {shown!r}")


@case
def progress_is_for_terminals_alone(s):
    # Both take longer than a busy machine lets a process wait.
    slower = SERVER.replace("time.sleep(2.5)", "time.sleep(7)")
    s.ctl.json("run", "--name", "slower", "--endpoint", "unix:/tmp/ctl.sock", "--", "/usr/bin/python3", "-S", "-c", slower)
    shows_progress(s.ctl, "invoke", "invoke", "slower", "/slow")
    shows_progress(s.ctl, "run", "run", "--name", "late", "--ready", "line:now", "--", "/bin/sh", "-c", "sleep 7; echo now; exec sleep 600")
    s.ctl.ok("kill", "slower")
    # Unless it had to wait for a CPU.
    expect(any(s.ctl.on_terminal("ps") == ("", 0) for _ in range(3)), "a quick command shows progress")
    s.ctl.ok("invoke", "web", "/slow")  # ok() wants a silent stderr
    s.ctl.ok("kill", "late")


@case
def template_is_made_and_comes_back(s):
    before = int(s.ctl.ok("invoke", "web", "/count").out)
    told = s.ctl.json("capture", "web", "t")
    expect(told["template"]["name"] == "t" and told["stopped_us"] > 0 and told["phases"], f"capture: {told}")
    s.ctl.fails(3, "t", "capture", "web", "t")
    attached = s.ctl.json("attach", "t")
    expect(attached["pages"] == "copy" and attached["function"]["template"] == "t", f"attach: {attached}")
    function = attached["function"]["id"]
    expect(int(s.ctl.ok("invoke", function, "/count").out) == before + 1, "the copy does not go on where it was")
    expect(any(line.split()[0] == str(function).encode() and b" t " in line for line in s.ctl.ok("ps").out.splitlines()),
           "ps does not name the template")
    s.ctl.fails(2, "have this name", "invoke", "web", "/")
    s.ctl.fails(3, "", "detach", function)  # There is no guest memory here.
    s.ctl.fails(3, "", "attach", "t", "--pages", "in_place")
    s.ctl.ok("kill", function)
    s.ctl.ok("forget", function)


@case
def templates_are_shown_checked_and_removed(s):
    expect([t["name"] for t in s.ctl.json("templates", "list")["templates"]] == ["t"], "list")
    expect(b"USER STATE" in s.ctl.ok("templates", "list").out, "list in words")
    shown = s.ctl.json("templates", "show", "t")["template"]
    expect(shown["program"].startswith("python3") and "requirements" in shown, f"show: {shown}")
    expect(s.ctl.json("templates", "verify", "t") == {"name": "t", "whole": True}, "verify")
    shutil.copytree(s.store / "t", s.store / "bad")
    pages = s.store / "bad" / "pages"
    pages.chmod(0o600)
    with open(pages, "r+b") as f:
        f.seek(5000)
        byte = f.read(1)[0]
        f.seek(5000)
        f.write(bytes([byte ^ 1]))
    s.ctl.fails(6, "bad", "templates", "verify", "bad")
    s.ctl.fails(6, "bad", "attach", "bad")
    for name in ("bad", "t"):
        expect(s.ctl.json("templates", "remove", name) == {"name": name, "removed": True}, "remove")
    s.ctl.fails(4, "t", "templates", "show", "t")
    s.ctl.fails(4, "t", "attach", "t")
    without = Ctl(s.program, "--agent", f"unix:{s.agent.socket}")
    without.fails(3, "--store", "templates", "list")


@case
def pool_takes_and_gives(s):
    """And an attach straight from it, by copy here."""
    function = s.ctl.run_server("pooled")
    s.ctl.ok("invoke", function, "/count")
    s.ctl.ok("capture", "--end", function, "far")
    s.ctl.ok("forget", function)
    folder = s.folder / "pool"
    folder.mkdir()
    uri, pool = f"file:{folder}", Ctl(s.program, "--store", s.store)
    pool.fails(4, "pool file:/no/such", "pool", "ls", "file:/no/such")
    pool.fails(2, "is of no kind that there is; give file:/PATH", "pool", "ls", "nfs:/a")
    Ctl(s.program).fails(2, "which store? Give --store FOLDER", "pool", "push", uri, "far")
    expect(pool.json("pool", "push", uri, "far")["name"] == "far", "push")
    pool.fails(3, "push far to file:", "pool", "push", uri, "far")
    [listed] = pool.json("pool", "ls", uri)["templates"]
    shown = s.ctl.json("templates", "show", "far")["template"]
    expect(listed["name"] == "far" and listed["digest"] == shown["digest"], f"{listed} is not {shown}")
    expect(b"DIGEST" in pool.ok("pool", "ls", uri).out, "ls in words")
    stat = pool.json("pool", "stat", uri)
    expect(stat["templates"] == 1 and stat["used_bytes"] == listed["bytes"] < stat["limit_bytes"], f"{stat}")
    expect(b"far: whole" in pool.ok("pool", "verify", uri, "far").out, "verify in words")
    s.ctl.ok("templates", "remove", "far")
    attached = s.ctl.json("attach", "far", "--from", uri, "--digest", listed["digest"])
    expect(attached["bytes_by_source"]["pool"] == shown["pages_bytes"], f"{attached}")
    function = attached["function"]["id"]
    expect(s.ctl.ok("invoke", function, "/count").out == b"2", "it does not go on where it was")
    s.ctl.ok("kill", function)
    s.ctl.ok("forget", function)
    s.ctl.fails(6, "asked for was aa; name the one that you mean", "attach", "far", "--from", uri, "--digest", "aa")
    s.ctl.fails(2, "digest: only with from", "attach", "far", "--digest", "aa")
    pool.ok("pool", "pull", uri, "far")
    expect(s.ctl.json("templates", "verify", "far")["whole"], "what was pulled")
    pool.fails(3, "is there already", "pool", "pull", uri, "far")
    pages = folder / "far" / "pages"
    pages.chmod(0o600)
    with open(pages, "r+b") as f:
        f.write(b"\xff" * 64)
    pool.fails(6, "pages: chunk 0", "pool", "verify", uri, "far")
    expect(pool.json("pool", "rm", uri, "far") == {"uri": uri, "name": "far", "done": "rm"}, "rm")
    pool.fails(4, "far", "pool", "rm", uri, "far")
    s.ctl.ok("templates", "remove", "far")


@case
def fork_goes_to_a_pool_and_both_go_on(s):
    """Each with a state of its own; the pool has it under the function's name, or another, and the store only when asked."""
    function = s.ctl.run_server("forked")
    s.ctl.ok("invoke", function, "/count")
    folder = s.folder / "forks"
    folder.mkdir()
    uri = f"file:{folder}"
    told = s.ctl.json("fork", "forked", "--to", uri)
    expect(told["to"] == uri and told["pushed"] and not told["kept"] and told["stopped_us"] > 0, f"fork: {told}")
    expect({"open_pool", "push"} <= {phase["name"].removeprefix("host.") for phase in told["phases"]}, f"{told['phases']}")
    [listed] = s.ctl.json("pool", "ls", uri)["templates"]
    expect(listed["name"] == "forked" and listed["digest"] == told["template"]["digest"], f"{listed} is not {told['template']}")
    expect(s.ctl.ok("invoke", function, "/count").out == b"2", "the function does not go on")
    copy = s.ctl.json("attach", "forked", "--from", uri, "--digest", listed["digest"])["function"]["id"]
    for turn in (b"2", b"3", b"4"):
        expect(s.ctl.ok("invoke", copy, "/count").out == turn, "the fork does not go on where it was")
    expect(s.ctl.ok("invoke", function, "/count").out == b"3", "what it was forked from sees what the fork does")
    s.ctl.fails(3, "is in pool file:", "fork", function, "--to", uri)
    s.ctl.fails(4, "pool file:/no/such", "fork", function, "--to", "file:/no/such")
    s.ctl.fails(2, "asks for the tenant's key", "fork", function, "--to", "rdma://127.0.0.1/")
    s.ctl.fails(3, "this VM's own store", "fork", function, "--to", f"file:{s.store}", "--name", "home")
    s.ctl.fails(4, "does not live", "fork", "999", "--to", uri)
    s.ctl.fails(2, "name", "fork", function, "--to", uri, "--name", "../up")
    expect(s.ctl.json("templates", "list")["templates"] == [], "something is in the store")
    words = s.ctl.ok("fork", function, "--to", uri, "--name", "third", "--keep").out.decode()
    expect(words.startswith(f"third is in {uri}, and in the store: ") and " stopped " in words, words)
    expect(s.ctl.json("templates", "verify", "third")["whole"], "what was kept")
    expect(sorted(p.name for p in folder.iterdir() if p.name[0] != ".") == ["forked", "third"], "the pool has something else")
    expect(s.ctl.ok("invoke", function, "/count").out == b"4", "the function does not go on")
    for one in (copy, function):
        s.ctl.ok("kill", one)
        s.ctl.ok("forget", one)
    s.ctl.ok("templates", "remove", "third")


@case
def pool_of_memory_takes_and_gives(s):
    function = s.ctl.run_server("pooled")
    s.ctl.ok("invoke", function, "/count")
    s.ctl.ok("capture", "--end", function, "near")
    s.ctl.ok("forget", function)
    uri, pool = f"dax:{s.folder}/pmem", Ctl(s.program, "--store", s.store)
    pool.fails(4, "pmem", "pool", "ls", uri)
    pool.fails(4, "give --size MIB to make a file", "pool", "format", uri)
    stat = pool.json("pool", "format", uri, "--size", "256")
    expect(stat["templates"] == 0 and stat["used_bytes"] == 0 and stat["medium"] == "page cache", f"{stat}")
    pool.ok("pool", "push", uri, "near")
    pool.fails(3, "holds a pool of 1 templates; give --force", "pool", "format", uri)
    pool.fails(2, "pools of this kind are not formatted", "pool", "format", f"file:{s.folder}")
    [listed] = pool.json("pool", "ls", uri)["templates"]
    expect(b"near: whole" in pool.ok("pool", "verify", uri, "near").out, "verify in words")
    s.ctl.ok("templates", "remove", "near")
    function = s.ctl.json("attach", "near", "--from", uri, "--digest", listed["digest"])["function"]["id"]
    expect(s.ctl.ok("invoke", function, "/count").out == b"2", "it does not go on where it was")
    s.ctl.ok("kill", function)
    s.ctl.ok("forget", function)
    pool.ok("pool", "rm", uri, "near")
    expect(pool.json("pool", "stat", uri)["used_bytes"] == 0, "its space was not given back")


@case
def capture_ends_the_function_when_asked(s):
    function = s.ctl.run_server("once")
    s.ctl.ok("capture", "--end", function, "last")
    state = {f["id"]: f["state"] for f in s.ctl.json("ps")["functions"]}[function]
    expect(state == "ended", f"it is {state}")
    s.ctl.fails(4, "none of this name lives", "kill", "once")
    s.ctl.ok("forget", function)
    s.ctl.ok("templates", "remove", "last")


@case
def specification_comes_from_a_file_or_stdin(s):
    spec = {"name": "filed", "argv": ["/bin/sh", "-c", "pwd; echo $A; exec sleep 600"], "env": ["A=from a file"], "cwd": "/usr",
            "readiness": {"kind": "line", "line": "from a file"}}
    path = s.folder / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    for words, stdin in (([path], b""), (["-"], path.read_bytes())):
        function = s.ctl.json("run", *words, stdin=stdin)["function"]["id"]
        expect(s.ctl.ok("logs", function).out == b"/usr\nfrom a file\n", "its output")
        s.ctl.ok("kill", function)
        s.ctl.ok("forget", function)
    path.write_text(json.dumps(spec | {"colour": 1}), encoding="utf-8")
    s.ctl.fails(2, "colour", "run", path)
    s.ctl.fails(4, "nonexistent", "run", "/nonexistent.json")


@case
def run_looks_at_the_policy_first(s):
    def ids():
        return [f["id"] for f in s.ctl.json("ps")["functions"]]

    before = ids()
    s.ctl.fails(2, "there is no policy", "run", "--name", "x", "--policy", "zzz", "--", "sleep", "600")
    s.ctl.fails(2, "no parameter", "run", "--name", "x", "--policy", "fixed:foo=1", "--", "sleep", "600")
    expect(ids() == before, "a function was started")


@case
def vm_refuses_a_folder_in_use_and_a_pool_that_is_not_there(s):
    folder = s.folder / "vm"
    folder.mkdir()
    with open(folder / "vm.pid", "w", encoding="utf-8") as held:
        held.write("4711\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        for words in ([], ["--detach"]):
            s.plain.fails(3, "process 4711", "vm", *words, "--dir", folder)
    s.plain.fails(4, "/nonexistent/pool: is no folder", "vm", "--dir", folder, "--pool", "/nonexistent/pool")
    expect(not (folder / "qmp.sock").exists(), "QEMU was started")


@case
def silent_vm_is_an_error(s):
    """A VMM that is stopped: the kernel takes the connection, and nobody reads from it. Asked at the beginning."""
    for process in s.silent:
        err = process.communicate(timeout=60)[1]
        expect(process.returncode == 8 and b"has said nothing" in err, f"exit {process.returncode}: {err}")


@case
def refusals_have_their_exit_codes(s):
    s.ctl.fails(4, "987654", "kill", "987654")
    s.ctl.fails(4, "/no/such/program", "run", "--name", "f", "--", "/no/such/program")
    Ctl(s.program, "--agent", "unix:/nonexistent/sock").fails(8, "is the VM up", "hello")
    narrow = Agent(s.bin, s.folder / "narrow", verbs=["List", "Kill", "Run"], max_functions=1)
    ctl = Ctl(s.program, "--agent", f"unix:{narrow.socket}")
    try:
        ctl.fails(5, "Freeze", "freeze", "1")
        ctl.ok("run", "--name", "one", "--", "sleep", "600")
        ctl.fails(7, "", "run", "--name", "two", "--", "sleep", "600")
    finally:
        narrow.close(ctl)


@case
def result_that_cannot_be_written_is_an_error(s):
    with open("/dev/full", "wb") as full:
        process = s.ctl.start("ps", stdout=full, stderr=subprocess.PIPE)
        err = process.communicate(timeout=60)[1]
    expect(process.returncode == 7 and b"stdout: ENOSPC" in err, f"exit {process.returncode}: {err}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of moultctl and moult-agent")
    parser.add_argument("--only", default="", help="cases with this in their names; those that they build on, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moultctl-") as folder:
        setting = Setting(options.bin.resolve(), pathlib.Path(folder))
        try:
            return run_cases([c for c in CASES if options.only in c.__name__], setting)
        finally:
            setting.agent.close(setting.ctl)
            # The store keeps its folders read-only.
            subprocess.run(["chmod", "-R", "u+w", folder], check=False)


if __name__ == "__main__":
    sys.exit(main())
