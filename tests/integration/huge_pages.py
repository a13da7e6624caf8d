# SPDX-License-Identifier: Apache-2.0
"""Huge pages for the workloads that need some: reserved while the matrix runs, and given back."""

import pathlib

WORKLOADS = ("hugetlb_private", "refuse_hugetlb_shared")
_POOL = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


class HugePages:
    """`wanted` free pages of 2 MiB, as far as the kernel gives them; `missing` says why there are fewer."""

    def __init__(self, wanted):
        self.before, self.missing = None, None
        if not wanted:
            return
        try:
            free, total = self._read("free_hugepages"), self._read("nr_hugepages")
            if free < wanted:
                (_POOL / "nr_hugepages").write_text(str(total + wanted - free), encoding="ascii")
                self.before = total
            if (free := self._read("free_hugepages")) < wanted:
                self.missing = f"the kernel gives {free} of {wanted} huge pages"
        except OSError as e:
            self.missing = f"huge pages cannot be reserved: {e.strerror}"

    def close(self):
        if self.before is not None:
            (_POOL / "nr_hugepages").write_text(str(self.before), encoding="ascii")
            self.before = None

    @staticmethod
    def _read(name):
        return int((_POOL / name).read_text(encoding="ascii"))
