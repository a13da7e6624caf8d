// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_QEMU_SETTINGS_H_
#define MOULT_ADAPTERS_QEMU_SETTINGS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::qemu {

// MOULT_QEMU: "key=value,key=value"; a comma in a value is written twice, as in QEMU's own options.
struct Settings {
  std::string control;           // control=PATH, needed: the control socket
  std::vector<std::string> ram;  // ram=ID[+ID...]: memory backends that are guest RAM; default "ram"
  std::vector<std::string>
      windows;         // window=ID[+ID...]: backends of ivshmem or pmem devices, in the driver's order
  std::string vsock;   // vsock=CID, or vsock=uds:PATH, or vsock=unix:PATH, needed: the way to the agent
  uint32_t port = 0;   // port=N: the agent's; default 1075
  std::string store;   // store=DIR: the templates
  std::string pool;       // pool=file:DIR or rdma://HOST[:PORT]/: where offloaded pages go; without it there is no offload
  uint64_t pool_mib = 0;  // pool_mib=N: at most so much; 0: as much as fits; with rdma: needed
  uint32_t pager_threads = 4;  // pager_threads=N: that serve faults; so many that what hangs leaves two, and one more to look at templates
  // cache=DIR: what this host has of templates that lie elsewhere; cache=none: each VM for itself
  std::string cache = "/dev/shm/moult-cache";
  uint64_t cache_mib = 0;      // cache_mib=N: at most so much; 0: half of the file system
  uint32_t prefetch_mib = 16;  // prefetch_mib=N: MiB a second behind what was touched at earlier attaches; 0: none
  uint32_t fault_ms = 10'000;  // fault_ms=N: after which a page that a pool does not give is lost
  std::string pool_key;        // pool_key=FILE: this tenant's, for pools that ask for one
  std::string tenant;  // tenant=NAME
  bool cross_tenant = false;  // cross_tenant=on: let templates of other tenants in
  std::string name;           // name=TEXT: for messages
  std::string log;            // log=FILE instead of stderr
  bool debug = false;         // debug=on: log everything
};

// kInvalidArgument names the key. Whatever could be read is in `settings` also then, so that the error can be
// told over the control socket.
absl::Status ParseSettings(std::string_view text, Settings* settings);

}  // namespace moult::qemu

#endif  // MOULT_ADAPTERS_QEMU_SETTINGS_H_
