# SPDX-License-Identifier: Apache-2.0
"""Takes the place of a user-space vsock device's socket, passes everything on, and cuts a connection where it is told."""
import os
import selectors
import socket
import threading


class Cutter:
    """`path` is a socket that somebody listens on; who connects to it from now on comes through here."""

    def __init__(self, path):
        self.real = path + ".real"
        os.rename(path, self.real)  # A bound socket is reached by whatever name its file has.
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(64)
        self.lock = threading.Lock()  # guards the rest
        self.side, self.left, self.cuts = None, 0, 0
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, side, after):
        """The connection that carries the byte after the next `after` ones of "host" (or "guest") ends there, once."""
        with self.lock:
            self.side, self.left, self.cuts = side, after, 0

    def disarm(self):
        """Whether it has cut since it was armed."""
        with self.lock:
            self.side = None
            return self.cuts > 0

    def _accept(self):
        while True:
            ours, _ = self.listener.accept()
            theirs = socket.socket(socket.AF_UNIX)
            try:
                theirs.connect(self.real)
            except OSError:
                ours.close()
                continue
            threading.Thread(target=self._relay, args=(ours, theirs), daemon=True).start()

    def _take(self, side, data):
        """What of `data` may go on, and whether the connection ends then."""
        with self.lock:
            if side != self.side:
                return data, False
            if len(data) <= self.left:
                self.left -= len(data)
                return data, False
            self.side, self.cuts = None, 1
            return data[:self.left], True

    def _relay(self, ours, theirs):
        pairs = {ours: (theirs, "host"), theirs: (ours, "guest")}
        with selectors.DefaultSelector() as ready:
            for end in pairs:
                ready.register(end, selectors.EVENT_READ)
            try:
                while ready.get_map():
                    for key, _ in ready.select():
                        other, side = pairs[key.fileobj]
                        data = key.fileobj.recv(65536)
                        data, cut = self._take(side, data) if data else (data, False)
                        if data:
                            other.sendall(data)
                        if cut:
                            return
                        if not data:
                            ready.unregister(key.fileobj)
                            other.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # one of the two has gone
            finally:
                ours.close()
                theirs.close()
