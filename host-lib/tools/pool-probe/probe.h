// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_POOL_PROBE_PROBE_H_
#define MOULT_POOL_PROBE_PROBE_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "pool/rdma/auth.h"
#include "pool/template_pool.h"

namespace moult::probe {

struct Target {
  std::string uri;  // of kind rdma:
  host::rdma::TenantKey key;
  std::string key_file;  // that it is from
  unsigned connections = 4;
  std::chrono::milliseconds timeout{10000};
  host::RemoteTemplate::Clock::time_point deadline() const { return host::RemoteTemplate::Clock::now() + timeout; }
};

// Each opens the pool, and prints what it finds as JSON, a line for each thing.
absl::Status List(const Target& target);
absl::Status Use(const Target& target);
absl::Status Push(const Target& target, const std::string& store, const std::string& name);
absl::Status Remove(const Target& target, const std::string& name);
// Reads all pages and holds them against the manifest. kDataLoss names the first chunk that is not as it says.
absl::Status Verify(const Target& target, const std::string& name);
// Reads pages here and there, for so long or until SIGINT; prints each change between well and not, and how long the slowest call took.
absl::Status Watch(const Target& target, const std::string& name, std::chrono::seconds time);
// Borrows memory, writes pages there and reads them back, so often; then gives it back.
absl::Status LentPages(const Target& target, unsigned mib, unsigned rounds);
// The same once, and reads them for so long, as Watch; then whether others can be written.
absl::Status WatchLentPages(const Target& target, unsigned mib, std::chrono::seconds time);
// Page by page and in sequence, each beside the bare verbs on a connection of its own, alternately; and their ratios.
absl::Status Measure(const Target& target, const std::string& name, unsigned pages);
// Of offloaded pages, for which the node has to lend memory, and of the template, each beside a bare READ and a bare
// UFFDIO_COPY, alternately; and their ratios. Needs userfaultfd.
absl::Status Faults(const Target& target, const std::string& name, unsigned rounds);

struct AttachOptions {
  std::string store;               // folder with the template, or to pull it to: the peer's
  std::string cache = "/dev/shm";  // on a tmpfs
  std::vector<std::string> also;   // URIs of other pools that have it
  unsigned rounds = 5;
  uint64_t prefetch_mib = 16;  // a second, behind what is touched; what a VM has by default
};
// To the first answer, to the working set, to all pages, and bytes moved: from the pool and `also`, cold, cold with the
// working set known, warm, in turns with the same template mapped from a store.
absl::Status Attach(const Target& target, const std::string& name, const AttachOptions& options);

}  // namespace moult::probe

#endif  // MOULT_POOL_PROBE_PROBE_H_
