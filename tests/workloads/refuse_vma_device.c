// SPDX-License-Identifier: Apache-2.0
//
// A mapping of a device (here a perf ring buffer) cannot be captured: refused, and it stays mapped.
#include <linux/perf_event.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE,
                                       .size = sizeof(attributes),
                                       .config = PERF_COUNT_SW_DUMMY,
                                       .exclude_kernel = 1};
  const int fd = (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
  if (fd < 0) VictimSkip("perf_event_open: %s", strerror(errno));
  volatile struct perf_event_mmap_page* ring =
      mmap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (ring == MAP_FAILED) VictimSkip("mmap of a perf event: %s", strerror(errno));
  SYS(close(fd));
  const uint32_t version = ring->version;
  VictimReady();
  CHECK_EQ(ring->version, version);
  VictimPass();
}
