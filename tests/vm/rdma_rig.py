# SPDX-License-Identifier: Apache-2.0
"""Guests with Soft-RoCE (rdma_rxe) devices: memory nodes, and a client that has a wire of its own to each.

A wire is a pair of unix datagram sockets between two QEMUs: what an end sends while the other is dead is lost.
"""
import hashlib
import pathlib
import subprocess

from machine import Machine, rootfs

MEMORY = 640
MTU = 4500  # RoCE packets of 4 KiB, with their headers


def stripped(program, folder):
    target = pathlib.Path(folder) / pathlib.Path(program).name
    subprocess.run(["strip", "-o", target, program], check=True)
    return target


def _mac(socket):
    """An end's own, of the locally administered."""
    return ":".join(f"{byte:02x}" for byte in b"\x52\x54" + hashlib.sha256(str(socket).encode()).digest()[:4])


class RdmaMachine(Machine):
    """wires: [(socket here, socket there, address/prefix)], eth0 and rxe0 the first."""

    def __init__(self, wires, **options):
        args = []
        for number, (here, there, _) in enumerate(wires):
            args += ["-netdev", f"dgram,id=wire{number},local.type=unix,local.path={here},remote.type=unix,remote.path={there}",
                     "-device", f"virtio-net-pci,id=nic{number},netdev=wire{number},mac={_mac(here)}"]
        payload = {"rdma.tar": pathlib.Path(rootfs("rdma-tools")), **options.pop("payload", {})}
        args += options.pop("qemu_args", [])
        super().__init__(kernel="full", window=0, qemu_args=args, payload=payload, **{"memory": MEMORY, **options})
        self.wires = wires

    def boot(self, timeout=120):
        super().boot(timeout)
        self.sh("tar -xf /run/moult/rdma.tar -C / && ldconfig && modprobe -a virtio_net rdma_ucm")
        for number, (_, _, address) in enumerate(self.wires):
            self.sh(f"ip link set eth{number} mtu {MTU} up && ip addr add {address} dev eth{number}")
        return self

    def add_devices(self):
        """Until then there is a network and no RDMA."""
        self.sh("modprobe -a crc32_generic rdma_rxe && " +
                " && ".join(f"rdma link add rxe{n} type rxe netdev eth{n}" for n in range(len(self.wires))))

    def sh(self, script, timeout=60):
        return self.run(["/bin/sh", "-c", script], timeout=timeout).check().text().strip()


class MemoryNode(RdmaMachine):
    def boot(self, timeout=120):
        super().boot(timeout)
        self.add_devices()
        return self

    def start(self, store="/srv/store", keys="/srv/keys", limit=256, lend=0, grace=600):
        """moult-poold, when it listens; its pid."""
        return int(self.sh(
            f"mkfifo -m 600 /run/ready || exit; setsid moult-poold {store} --keys {keys} --limit-mib {limit} --lend-mib {lend} --lend-grace-s {grace} "
            ">/run/ready 2>/run/poold.log </dev/null & pid=$!; read -r line </run/ready; rm /run/ready; "
            "[ -n \"$line\" ] && echo $pid || { cat /run/poold.log >&2; exit 1; }"))

    def cpu_ticks(self, pid):
        """User and system time of a process."""
        fields = self.sh(f"cat /proc/{pid}/stat").rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])
