# SPDX-License-Identifier: Apache-2.0
"""Two emulated NVDIMMs of a guest: /dev/dax1.0, a devdax device, and /dev/pmem0, on which ext4 is mounted at /mnt/pmem with -o dax."""
import pathlib

DIMM_MIB = 256
DEVICE, FILE = "dax:/dev/dax1.0", "dax:/mnt/pmem/pool"
# What ndctl create-namespace does, which the image has not: a namespace with memory for its page structures, in RAM.
NAMESPACE = """
make() { # make REGION SEED DRIVER
  seed=$(cat region$1/$2) && echo namespace$1.0 >/sys/bus/nd/drivers/nd_pmem/unbind && cat /proc/sys/kernel/random/uuid >$seed/uuid &&
  echo ram >$seed/mode && echo 2097152 >$seed/align && echo namespace$1.0 >$seed/namespace && echo $seed >/sys/bus/nd/drivers/$3/bind
}
cd /sys/bus/nd/devices && make 0 pfn_seed nd_pmem && make 1 dax_seed dax_pmem && test -c /dev/dax1.0 && test -b /dev/pmem0 &&
mkfs.ext4 -q -b 4096 /dev/pmem0
"""


def qemu_args(folder):
    """What is in them stays in files of the folder."""
    args = ["-machine", "nvdimm=on", "-m", "slots=2,maxmem=4G"]
    for number in range(2):
        path = pathlib.Path(folder) / f"dimm{number}"
        if not path.exists():
            with open(path, "wb") as file:
                file.truncate(DIMM_MIB << 20)
        args += ["-object", f"memory-backend-file,id=dimm{number},share=on,mem-path={path},size={DIMM_MIB}M",
                 "-device", f"nvdimm,id=nvdimm{number},memdev=dimm{number}"]
    return args


def attach(sh, first):
    """In a guest that has booted with them, for the first time or once more."""
    sh("modprobe -a nd_pmem dax_pmem device_dax nfit && cat /sys/bus/nd/devices/ndbus0/wait_probe && mkdir -p /mnt/pmem")
    if first:
        sh(NAMESPACE)
    sh("test -c /dev/dax1.0 && mount -o dax /dev/pmem0 /mnt/pmem && grep -q ' /mnt/pmem ext4 .*dax' /proc/mounts")
