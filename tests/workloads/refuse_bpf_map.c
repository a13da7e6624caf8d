// SPDX-License-Identifier: Apache-2.0
//
// A bpf map cannot be captured: refused, and its content stays.
#include <linux/bpf.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  union bpf_attr create = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
  const int map = (int)syscall(SYS_bpf, BPF_MAP_CREATE, &create, sizeof(create));
  if (map < 0) VictimSkip("bpf: %s", strerror(errno));
  const uint32_t key = 0;
  uint64_t value = 4711;
  union bpf_attr element = {.map_fd = (uint32_t)map, .key = (uintptr_t)&key, .value = (uintptr_t)&value};
  SYS(syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &element, sizeof(element)));
  value = 0;
  VictimReady();
  SYS(syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &element, sizeof(element)));
  CHECK_EQ(value, 4711);
  VictimPass();
}
