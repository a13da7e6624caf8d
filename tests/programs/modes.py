# SPDX-License-Identifier: Apache-2.0
"""What is done to a running program between the requests before and the requests after."""
import copy
import os

import procfs
from driver import Endpoint, ToolError


class Run:
    """One program in one mode. `alive` holds every process to be ended, whatever happens."""

    def __init__(self, program, tool, report, work, count, with_client):
        self.program, self.tool, self.report, self.work, self.count = program, tool, report, work, count
        self.with_client, self.alive, self.clock, self.before = with_client, [], 0, None
        self.pid = self.outside = 0  # As the program sees itself; as it is seen from here.

    def start(self):
        self.program.build()
        self.pid = self.outside = self.program.start()
        self.alive.append(self.pid)
        ep = self.program.endpoint()
        self.program.warm(ep)
        inside, self.clock = self.program.identity(ep)
        self.report.equal("pid from inside is the pid", inside, self.pid)
        self.before = self.program.snapshot(ep)

    def close(self):
        for pid in self.alive:
            procfs.kill(pid)

    def attach(self):
        if self.with_client:
            self.program.attach(self.program.endpoint())

    def still_attached(self):
        if self.with_client:
            self.program.still_attached(self.program.endpoint(), self.report)

    def image(self, name):
        return os.path.join(self.work, name)

    def same(self, ep, model, stage):
        """All that must hold once the process runs again; leaves state one step further."""
        inside, clock = self.program.identity(ep)
        self.report.equal(f"{stage}: pid from inside", inside, self.pid)
        self.report.check(f"{stage}: {self.program.clock_name} did not go back", clock >= self.clock, f"{clock} < {self.clock}")
        self.clock = max(clock, self.clock)
        self.report.equal(f"{stage}: state is the same", self.program.snapshot(ep), self.before)
        self.program.advance(ep, model, self.report)
        self.program.live(ep, self.report)

    def end_dumped(self):
        """After a dump that ends the process: it is gone, and its pid is free again."""
        gone = procfs.wait_gone(self.outside)
        self.report.check("dump ended the process", gone, f"its state is {procfs.state(self.outside)}")
        if gone:
            self.alive.remove(self.outside)
        if self.with_client:
            self.program.detached(self.report)

    def adopt(self, pids, sandbox):
        """Notes restored processes, to end them; of a sandbox its init as well."""
        for pid in pids:
            if pid <= 1 or pid == os.getpid():
                raise RuntimeError(f"restore printed pid {pid}")
            self.alive.append(pid)
            init = procfs.namespace_init(pid) if sandbox else None
            if init:
                self.alive.append(init)


def plain(run):
    run.same(run.program.endpoint(), run.program.model, "plain")
    run.program.finish(run.program.endpoint(), run.report)


def freeze(run):
    run.attach()
    procfs.stop(run.pid)
    first, where = procfs.hash_memory(run.pid), procfs.thread_positions(run.pid)
    run.report.equal("stopped: memory stays the same", procfs.hash_memory(run.pid), first)
    run.report.equal("stopped: threads stay where they are", procfs.thread_positions(run.pid), where)
    procfs.cont(run.pid)
    run.still_attached()
    run.same(run.program.endpoint(), run.program.model, "stop and continue")
    run.before = run.program.snapshot(run.program.endpoint())
    try:
        freezer = procfs.Freezer(run.pid)
    except OSError as error:
        run.report.skip("cgroup freeze", str(error))
    else:
        try:
            freezer.freeze()
            freezer.thaw()
            run.same(run.program.endpoint(), run.program.model, f"cgroup {'v2' if freezer.v2 else 'v1'} freeze")
        finally:
            freezer.thaw()
            freezer.close()
    run.program.finish(run.program.endpoint(), run.report)


def leave(run):
    image = run.image("image")
    run.attach()
    run.tool.dump(run.pid, image, leave_running=True)
    run.report.check("dump of a running process: it runs on", procfs.state(run.pid) not in ("T", "t", "Z", None),
                     f"state {procfs.state(run.pid)}")
    run.still_attached()
    run.same(run.program.endpoint(), run.program.model, "left running")
    run.before = run.program.snapshot(run.program.endpoint())
    leave_stopped(run)
    try:
        run.adopt(run.tool.restore(image), False)
        run.report.check("restore is refused while the pid is taken", False, "it succeeded")
    except ToolError as error:
        run.report.equal("restore is refused while the pid is taken (exit 3)", error.code, 3)
    run.same(run.program.endpoint(), run.program.model, "after the refused restore")
    run.program.finish(run.program.endpoint(), run.report)


def leave_stopped(run):
    """A stopped process has nothing that could change but by the dump itself."""
    procfs.stop(run.pid)
    try:
        memory, where = procfs.hash_memory(run.pid), procfs.thread_positions(run.pid)
        mappings = [m for m in procfs.maps(run.pid)]
        run.tool.dump(run.pid, run.image("image-stopped"), leave_running=True)
        run.report.check("dump of a stopped process: it stays stopped", procfs.all_in_state(run.pid, "T"))
        run.report.equal("dump leaves memory bit-identical", procfs.hash_memory(run.pid), memory)
        run.report.equal("dump leaves the mappings as they were", list(procfs.maps(run.pid)), mappings)
        run.report.equal("dump leaves each thread where it was", procfs.thread_positions(run.pid), where)
    finally:
        procfs.cont(run.pid)
    run.same(run.program.endpoint(), run.program.model, "dumped while stopped")
    run.before = run.program.snapshot(run.program.endpoint())


def round_trip(run, name, sandbox):
    """Dump, gone, restore. run.pid stays the pid that the program itself sees."""
    run.attach()
    run.tool.dump(run.outside, run.image(name))
    run.end_dumped()
    pids = run.tool.restore(run.image(name), sandbox=sandbox)
    run.adopt(pids, sandbox)
    run.outside = pids[0]
    run.report.equal(f"{name}: one process is back", len(pids), 1)
    if not sandbox:
        run.report.equal(f"{name}: restored with its pid", pids, [run.pid])
    ep = run.program.endpoint()
    if sandbox:
        run.report.check(f"{name}: it has namespaces of its own", procfs.namespace_init(pids[0]))
    run.same(ep, run.program.model, name)
    run.before = run.program.snapshot(ep)
    return ep


def restore(run):
    run.program.finish(round_trip(run, "restore", False), run.report)


def sandbox(run):
    run.program.finish(round_trip(run, "sandbox", True), run.report)


def twice(run):
    round_trip(run, "first", False)
    run.program.finish(round_trip(run, "second", False), run.report)


def twice_sandbox(run):
    round_trip(run, "first", True)
    run.program.finish(round_trip(run, "second", True), run.report)


def many(run):
    image, program = run.image("image"), run.program
    run.attach()
    run.tool.dump(run.pid, image)
    run.end_dumped()
    endpoints = CLONES[program.addressing](run, image)
    models = [copy.deepcopy(program.model) for _ in endpoints]
    run.report.equal("clones are addressable", len(endpoints), run.count)
    first, clock = run.before, run.clock
    for i, (ep, model) in enumerate(zip(endpoints, models)):
        # Each must start from the dumped state, whatever the ones before it have done since.
        run.before, run.clock = first, clock
        run.report.prefix, prefix = f"{run.report.prefix} clone {i}", run.report.prefix
        run.same(ep, model, "many")
        program.finish(ep, run.report)
        run.report.prefix = prefix


def by_reuseport(run, image):
    """All at once on one port; the kernel spreads connections, each clone keeps the first name it is given."""
    pids = run.tool.restore(image, sandbox=True, count=run.count)
    run.adopt(pids, True)
    run.report.equal("as many pids as asked for", len(set(pids)), run.count)
    tags, ep = set(), run.program.endpoint()
    for i in range(200 * run.count):
        if len(tags) < run.count:
            tags.add(ep.json(f"/tag?set=clone{i}"))
    return [Endpoint(port=ep.port, tag=tag) for tag in sorted(tags)]


def by_netns(run, image):
    """One after the other, each in a network namespace of its own."""
    endpoints = []
    for _ in range(run.count):
        pids = run.tool.restore(image, sandbox=True, new_net=True)
        run.adopt(pids, True)
        endpoints.append(Endpoint(port=run.program.port, netns_pid=pids[0]))
    return endpoints


def by_rename(run, image):
    """One after the other; a unix socket answers under its new name, and the next clone binds the old one anew."""
    endpoints, path = [], run.program.socket_path
    for i in range(run.count):
        run.adopt(run.tool.restore(image, sandbox=True), True)
        os.rename(path, f"{path}.{i}")
        endpoints.append(Endpoint(path=f"{path}.{i}"))
    return endpoints


CLONES = {"reuseport": by_reuseport, "netns": by_netns, "rename": by_rename}
MODES = {f.__name__.replace("_", "-"): f for f in (plain, freeze, leave, restore, sandbox, twice, twice_sandbox, many)}
