#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A victim that will not sit still while it is dumped: `restless.py SCRATCH exit|fork|threads|maps|thread-exec`.

It says ready as every victim does, then appends to SCRATCH/beat as it goes, so that the test sees
that it still runs; it ends when SCRATCH/go is there.
"""

import mmap
import os
import random
import sys
import threading
import time


def main():
    scratch, mode = sys.argv[1:3]
    beat = os.open(f"{scratch}/beat", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    if not os.path.exists(f"{scratch}/ready"):  # not after an exec
        with open(f"{scratch}/ready.tmp", "w", encoding="ascii") as f:
            f.write(f"{os.getpid()}\n")
        os.rename(f"{scratch}/ready.tmp", f"{scratch}/ready")
    held = []
    while not os.path.exists(f"{scratch}/go"):
        os.write(beat, b".")
        if mode == "exit":
            # The runner writes how long a dump takes; before that there is nothing to run into.
            try:
                with open(f"{scratch}/until", encoding="ascii") as f:
                    time.sleep(random.random() * float(f.read()))
                os._exit(0)
            except (FileNotFoundError, ValueError):
                time.sleep(0.0005)
        elif mode == "fork":
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        elif mode == "threads":
            threads = [threading.Thread(target=time.sleep, args=(0.0002 * i,)) for i in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        elif mode == "thread-exec":
            # The kernel ends all other threads, and the one that remains gets the leader's number.
            threading.Thread(target=os.execv, args=(sys.executable, [sys.executable, "-S", *sys.argv])).start()
            threading.Event().wait()
        elif mode == "maps":
            held.append(mmap.mmap(-1, 4096 * random.randint(1, 64), flags=mmap.MAP_PRIVATE))
            held[-1][0] = 1
            if len(held) > 200:
                del held[random.randrange(len(held))]
    with open(f"{scratch}/result", "a", encoding="ascii") as f:
        f.write("pass\n")


if __name__ == "__main__":
    main()
