# SPDX-License-Identifier: Apache-2.0
"""What the kernel shows of a process, in a form in which before and after can be compared.

snapshot(pid) gives nested dicts; diff(before, after, mode) gives the differences that no entry of
ALLOWED excuses. Numbers that only name a thing (inodes of pipes, outer pids) become labels by first
appearance, so that the same thing twice stays the same thing twice.
"""

import array
import ctypes
import fcntl
import functools
import os
import re
import socket
import stat as stat_mod
import struct
import sys
import termios
import time

import rig

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_IOPRIO_GET, _SYS_GET_ROBUST_LIST, _SYS_KCMP, _SYS_PIDFD_GETFD = 252, 274, 312, 438

# (path pattern, modes or None for all, reason). Keep it short: an entry hides a promise.
ALLOWED = [
    (r"taken/", None, "when it was looked at"),
    (r"timens", ("sandbox",), "a sandbox has a time namespace of its own: offsets keep clocks rising"),
]

_STATUS_FIELDS = (
    "Name Umask Uid Gid Groups Threads SigPnd ShdPnd SigBlk SigIgn SigCgt CapInh CapPrm CapEff CapBnd "
    "CapAmb NoNewPrivs Seccomp Seccomp_filters Speculation_Store_Bypass SpeculationIndirectBranch "
    "Cpus_allowed_list Mems_allowed_list THP_enabled untag_mask x86_Thread_features "
    "x86_Thread_features_locked TracerPid VmLck VmPin HugetlbPages CoreDumping").split()
_THREAD_STATUS = ("SigPnd SigBlk Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp "
                  "Seccomp_filters Cpus_allowed_list Mems_allowed_list TracerPid").split()
# Fields of /proc/PID/stat counted from the state (field 3) = 0.
_STAT = {"exit_signal": 35, "startcode": 23, "endcode": 24, "startstack": 25, "start_data": 42,
         "end_data": 43, "start_brk": 44, "arg_start": 45, "arg_end": 46, "env_start": 47, "env_end": 48}
_THREAD_STAT = {"priority": 15, "nice": 16, "rt_priority": 37, "policy": 38}
# Bits of VmFlags that follow from use, not from what the process asked for: soft-dirty.
_FLAG_NOISE = {"sd"}
_AT_NAMES = {33: "AT_SYSINFO_EHDR"}
_ROUNDING_NS = 1_000_000


class _Labels:
    """The same number becomes the same label, in order of appearance."""

    def __init__(self):
        self.seen = {}

    def __call__(self, kind, number):
        return self.seen.setdefault((kind, number), f"{kind}#{sum(k == kind for k, _ in self.seen) + 1}")


def _read(path, mode="r"):
    with open(path, mode, **({} if "b" in mode else {"encoding": "utf-8", "errors": "replace"})) as f:
        return f.read()


def _link(path):
    try:
        return os.readlink(path)
    except OSError as e:
        return f"<{e.strerror}>"


def _try(function, *args):
    try:
        return function(*args)
    except OSError as e:
        return f"<{e.strerror}>"


# --- descriptors ----------------------------------------------------------------------------


def _normal_target(target, labels):
    match = re.fullmatch(r"(\w+):\[(\d+)\]", target)
    if match and match[1] in ("pipe", "socket"):
        return labels(match[1], match[2])
    if target.endswith(" (deleted)") and not target.startswith(("/memfd:", "/dev/")):
        return "<file without a name>"  # it comes back as a nameless file; content is the victim's check
    return target


def _fdinfo(text, inner):
    """fdinfo without what only numbers things; lines that repeat (epoll, inotify) become a list."""
    info = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key, value = key.strip(), value.strip()
        if key in ("mnt_id", "ino", "eventfd-id", "scm_fds"):
            continue
        if key == "flags" and int(value, 8) & 0o20000000:
            # O_TMPFILE tells how a nameless file was made, and nothing of what it is.
            value = f"{int(value, 8) & ~0o20200000:o}"
        if key == "lock":
            # "1: POSIX  ADVISORY  WRITE 123 fe:00:99 0 EOF": ordinal, pid and inode only number things
            parts = value.split()
            info.setdefault("lock", []).append(" ".join(parts[1:4] + parts[6:]))
        elif key == "tfd":
            value = re.sub(r"\s+(pos|ino|sdev):\s*\S+", "", value)
            info.setdefault("tfd", []).append(re.sub(r"\s+", " ", value))
        elif line.startswith("inotify"):
            value = re.sub(r"\s(ino|sdev|fhandle-\w+|f_handle):\S+", "", line)
            info.setdefault("inotify", []).append(re.sub(r"\s+", " ", value))
        elif key == "Pid" or key == "NSpid":
            info[key] = inner.get(value.split()[0], value)
        else:
            info[key] = value
    if "flags" in info:
        info["flags"] = f"{int(info['flags'], 8):o}"
    for key in ("lock", "tfd", "inotify"):
        if key in info:
            info[key].sort()
    return info


_SOCKET_OPTIONS = ("SO_TYPE SO_DOMAIN SO_PROTOCOL SO_ACCEPTCONN SO_REUSEADDR SO_REUSEPORT SO_KEEPALIVE "
                   "SO_BROADCAST SO_SNDBUF SO_RCVBUF SO_PASSCRED SO_PRIORITY SO_OOBINLINE SO_ERROR").split()


def _socket_details(fd):
    out = {}
    with socket.socket(fileno=os.dup(fd)) as s:
        for name in _SOCKET_OPTIONS:
            number = getattr(socket, name, {"SO_DOMAIN": 39, "SO_PROTOCOL": 38}.get(name))
            if number is not None and name != "SO_ERROR":  # reading SO_ERROR would clear it
                out[name] = _try(s.getsockopt, socket.SOL_SOCKET, number)
        out["linger"] = repr(_try(s.getsockopt, socket.SOL_SOCKET, socket.SO_LINGER, 8))
        if s.family in (socket.AF_INET, socket.AF_INET6) and s.type == socket.SOCK_STREAM:
            for name in ("TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_MAXSEG"):
                out[name] = _try(s.getsockopt, socket.IPPROTO_TCP, getattr(socket, name))
        if s.family == socket.AF_INET6:
            out["IPV6_V6ONLY"] = _try(s.getsockopt, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        out["name"] = repr(_try(s.getsockname))
        out["peer"] = repr(_try(s.getpeername))
        if not out["SO_ACCEPTCONN"]:
            out["queued"] = _try(_queued, fd)
    return out


def _queued(fd):
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


def _fd_details(pidfd, number):
    """What fdinfo does not tell, by a look through a duplicate of the descriptor."""
    fd = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        return {}
    try:
        info = os.fstat(fd)
        out = {"type": oct(stat_mod.S_IFMT(info.st_mode)), "mode": oct(stat_mod.S_IMODE(info.st_mode))}
        if stat_mod.S_ISREG(info.st_mode):
            out.update(size=info.st_size, uid=info.st_uid, gid=info.st_gid)
            out["seals"] = _try(fcntl.fcntl, fd, 1034)  # F_GET_SEALS
        elif stat_mod.S_ISFIFO(info.st_mode):
            out.update(capacity=_try(fcntl.fcntl, fd, 1032), queued=_try(_queued, fd))
        elif stat_mod.S_ISSOCK(info.st_mode):
            out.update(_socket_details(fd))
        out["signal"] = _try(fcntl.fcntl, fd, 11)  # F_GETSIG
        return out
    finally:
        os.close(fd)


def _same_description(pid, numbers):
    """Which descriptors share one open file description (dup, fork): kcmp(2), which also gives an order to sort by."""

    def order(a, b):
        # Neither of these: one of the two was closed meanwhile.
        return {0: 0, 1: -1, 2: 1}.get(_libc.syscall(_SYS_KCMP, pid, pid, 0, a, b), a - b)

    groups = []
    for number in sorted(numbers, key=functools.cmp_to_key(order)):
        if groups and order(groups[-1][-1], number) == 0:
            groups[-1].append(number)
        else:
            groups.append([number])
    return sorted(sorted(g) for g in groups if len(g) > 1)


def _fds(pid, inner):
    labels, out = _Labels(), {}
    numbers = sorted(int(n) for n in os.listdir(f"/proc/{pid}/fd"))
    pidfd = os.pidfd_open(pid)
    try:
        for n in numbers:
            out[n] = {"target": _normal_target(_link(f"/proc/{pid}/fd/{n}"), labels),
                      "fdinfo": _fdinfo(_read(f"/proc/{pid}/fdinfo/{n}"), inner),
                      "details": _fd_details(pidfd, n)}
    finally:
        os.close(pidfd)
    out["shared"] = _same_description(pid, numbers)
    return out


# --- memory ---------------------------------------------------------------------------------


def _smaps(pid):
    """Mappings with like neighbours joined: where the kernel could merge, it need not have."""
    areas, current = [], None
    for line in _read(f"/proc/{pid}/smaps").splitlines():
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) (\S+) \S+ (\d+)\s*(.*)", line)
        if match:
            name = match[6]
            if name.endswith(" (deleted)") and not name.startswith(("/memfd:", "/dev/zero", "/SYSV")):
                name = "<file without a name>"
            current = {"start": int(match[1], 16), "end": int(match[2], 16), "perms": match[3],
                       "offset": int(match[4], 16), "name": name, "file": match[5] != "0"}
            areas.append(current)
        elif line.startswith("VmFlags:"):
            # Whether private memory that cannot be written stays accounted for (ac) depends on whether any of
            # it was ever touched, since 6.6.
            noise = _FLAG_NOISE | ({"ac"} if current["perms"][1] != "w" else set())
            current["flags"] = " ".join(f for f in line[8:].split() if f not in noise)
        elif line.startswith("KernelPageSize:"):
            current["page"] = line.split(":")[1].strip()
    joined = []
    for area in areas:
        last = joined[-1] if joined else None
        if last and last["end"] == area["start"] and all(
                last[k] == area[k] for k in ("perms", "name", "file", "flags", "page")) and (
                not area["file"] or last["offset"] + last["end"] - last["start"] == area["offset"]):
            last["end"] = area["end"]
        else:
            joined.append(dict(area))
    return {f"{a['start']:x}-{a['end']:x}":
            f"{a['perms']} {a['offset'] if a['file'] else 0:x} {a['page']} [{a['flags']}] {a['name']}"
            for a in joined}


def _auxv(raw):
    pairs = {}
    for key, value in struct.iter_unpack("=QQ", raw[:len(raw) // 16 * 16]):
        pairs[_AT_NAMES.get(key, str(key))] = hex(value)
    return pairs


# --- threads --------------------------------------------------------------------------------


def _status(text, wanted, without_mask=False):
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {k: fields[k].strip() for k in wanted if k in fields and not (without_mask and k == "SigBlk")}


def _last(text):
    return text.split()[-1] if text else text


def _waits_with_own_mask(base):
    """Inside rt_sigtimedwait, rt_sigsuspend, pselect6, ppoll, epoll_pwait and epoll_pwait2 /proc shows the mask of the wait."""
    return _try(_read, f"{base}/syscall").split()[0] in ("128", "130", "270", "271", "281", "441")


def _thread(pid, tid):
    base = f"/proc/{pid}/task/{tid}"
    fields = rig.stat_fields(pid, tid)
    head, length = ctypes.c_uint64(), ctypes.c_uint64()
    robust = _libc.syscall(_SYS_GET_ROBUST_LIST, tid, ctypes.byref(head), ctypes.byref(length))
    out = {"comm": _read(f"{base}/comm").rstrip("\n"),
           "status": _status(_read(f"{base}/status"), _THREAD_STATUS, _waits_with_own_mask(base)),
           "timerslack": _try(_read, f"/proc/{tid}/timerslack_ns"),
           "ioprio": _libc.syscall(_SYS_IOPRIO_GET, 1, tid),
           "robust": (hex(head.value), length.value) if robust == 0 else None}
    out.update({k: fields[i].decode() for k, i in _THREAD_STAT.items()})
    return out


def _threads(pid):
    """{tid: (tid in its own namespace, picture)} of those that do not end meanwhile."""
    threads = {}
    for tid in rig.tids(pid):  # asked once: threads may come and go
        try:
            threads[str(tid)] = (_last(rig.status_field(pid, "NSpid", tid) or str(tid)), _thread(pid, tid))
        except (FileNotFoundError, ProcessLookupError, TypeError):
            if os.path.exists(f"/proc/{pid}/task/{tid}"):
                raise
    return threads


def _timers(text, inner):
    text = re.sub(r"([pt]id)\.(\d+)", lambda m: f"{m[1]}." + inner.get(m[2], m[2]), text)
    timers = re.split(r"(?m)^(?=ID:)", text)  # listed newest first; only the ids say which is which
    return {t.splitlines()[0]: t.splitlines()[1:] for t in timers if t}


def snapshot(pid):
    """Threads and descriptors of a running process may go while they are looked at: then again."""
    for _ in range(20):
        try:
            return _snapshot(pid)
        except (FileNotFoundError, ProcessLookupError, TypeError, KeyError):
            if not rig.alive(pid):
                raise rig.Failed(f"pid {pid} ended by itself (state {rig.state(pid)})") from None
    return _snapshot(pid)


def steady(pid, tries=20):
    """A snapshot taken twice with the same result: a thread that still starts, or a SIGCONT on its
    way, is not part of the state."""
    last = snapshot(pid)
    for _ in range(tries):
        time.sleep(rig.POLL_SECONDS)
        now = snapshot(pid)
        if not diff(last, now, "steady"):
            break
        last = now
    return now


def _now():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _snapshot(pid):
    begin = _now()
    status = _read(f"/proc/{pid}/status")
    names = _status(status, ("NSpid", "NStgid", "NSpgid", "NSsid"))
    threads = _threads(pid)
    inner = {outside: inside for outside, (inside, _) in threads.items()}
    fields = rig.stat_fields(pid)
    picture = {
        "ids": {k: _last(v) for k, v in names.items()},
        "status": _status(status, _STATUS_FIELDS, _waits_with_own_mask(f"/proc/{pid}")),
        "stat": {k: fields[i].decode() for k, i in _STAT.items()},
        "threads": dict(threads.values()),
        "fds": _fds(pid, inner),
        "maps": _smaps(pid),
        "limits": {line[:26].strip(): line[26:].split() for line in _read(f"/proc/{pid}/limits").splitlines()[1:]},
        "timers": _timers(_read(f"/proc/{pid}/timers"), inner),
        "cmdline": _read(f"/proc/{pid}/cmdline"),
        "environ": _read(f"/proc/{pid}/environ"),
        "auxv": _auxv(_read(f"/proc/{pid}/auxv", "rb")),
        "exe": _link(f"/proc/{pid}/exe"),
        "cwd": _link(f"/proc/{pid}/cwd"),
        "root": _link(f"/proc/{pid}/root"),
        "personality": _try(_read, f"/proc/{pid}/personality"),
        "oom_score_adj": _read(f"/proc/{pid}/oom_score_adj").strip(),
        "coredump_filter": _read(f"/proc/{pid}/coredump_filter").strip(),
        "timens": _try(_read, f"/proc/{pid}/timens_offsets"),
        "uts": _link(f"/proc/{pid}/ns/uts"),
        "net": _link(f"/proc/{pid}/ns/net"),
        "user": _link(f"/proc/{pid}/ns/user"),
    }
    picture["taken"] = {"begin": begin, "end": _now()}
    return picture


# --- comparing ------------------------------------------------------------------------------


def _flat(value, path=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}/{key}" if path else str(key))
    else:
        yield path, value


def _ns(text):
    """Of a time in fdinfo: "(seconds, nanoseconds)"."""
    seconds, rest = re.fullmatch(r"\((\d+), (\d+)\)", text).groups()
    return int(seconds) * 1_000_000_000 + int(rest)


def _wrong_left(old, new, passed):
    """What is wrong when a timerfd's fdinfo becomes `new` within `passed` ns, or None. What is left only falls, and while its
    process does not exist it stands still. A machine that stalls makes `passed` longer: it excuses, and never accuses."""
    left, now, interval = _ns(old["it_value"]), _ns(new["it_value"]), _ns(old["it_interval"])
    # One that repeats stands still after an expiry until somebody reads it or asks what is left, as a dump does.
    unarmed = left == 0 and (interval == 0 or old["ticks"] == "0")
    may_expire = left <= passed and not unarmed
    if now > (max(left, interval) if may_expire else left):
        return "more than before"
    if now < left - passed:
        return "less than the time that has passed leaves"
    if not may_expire and new["ticks"] != old["ticks"]:
        return "expiries come or gone"
    return None


def _timers_left(before, after):
    """{path: what is wrong, or None} of what tells how timerfds move on. It says nothing that is another each time."""
    passed = after["taken"]["end"] - before["taken"]["begin"] + _ROUNDING_NS
    judged = {}
    for number in (before["fds"].keys() & after["fds"].keys()) - {"shared"}:
        old, new = before["fds"][number]["fdinfo"], after["fds"][number]["fdinfo"]
        if "it_value" in old and "it_value" in new:
            judged[f"fds/{number}/fdinfo/ticks"] = None
            judged[f"fds/{number}/fdinfo/it_value"] = _wrong_left(old, new, passed)
    return judged


def diff(before, after, mode):
    old, new, timers = dict(_flat(before)), dict(_flat(after)), _timers_left(before, after)
    out = []
    for path in sorted(set(old) | set(new)):
        if path in timers:
            if timers[path]:
                out.append(f"{path}: {old[path]} -> {timers[path]}")
            continue
        if old.get(path) == new.get(path):
            continue
        if path.endswith("SigBlk") and (path in old) != (path in new):
            continue  # one of the two was taken while the thread was in such a wait
        if any(re.search("^" + p, path) and (modes is None or mode in modes) for p, modes, _ in ALLOWED):
            continue
        out.append(f"{path}: {old.get(path, '(absent)')} -> {new.get(path, '(absent)')}")
    return out


def compare(before, pid, mode, tries=3):
    """diff against the process as it is now; a difference must show every time to count."""
    found = None
    for _ in range(tries):
        current = diff(before, snapshot(pid), mode)
        found = current if found is None else [d for d in found if d in current]
        if not found:
            return []
    return found


def main():
    """`oracle.py PID [PID2]`: a snapshot, or what differs between two processes."""
    import json
    if len(sys.argv) == 2:
        print(json.dumps(snapshot(int(sys.argv[1])), indent=1))
        return 0
    if len(sys.argv) == 3:
        print("\n".join(diff(snapshot(int(sys.argv[1])), snapshot(int(sys.argv[2])), "cli")))
        return 0
    print(main.__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
