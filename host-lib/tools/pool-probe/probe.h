// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_POOL_PROBE_PROBE_H_
#define MOULT_POOL_PROBE_PROBE_H_

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "pool/rdma/auth.h"
#include "pool/template_pool.h"

namespace moult::probe {

struct Target {
  std::string uri;  // of kind rdma:
  host::rdma::TenantKey key;
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
// Reads pages here and there, for so long; prints each change between well and not, and how long the slowest call took.
absl::Status Watch(const Target& target, const std::string& name, std::chrono::seconds time);
// Page by page and in sequence, each beside the bare verbs on a connection of its own, alternately; and their ratios.
absl::Status Measure(const Target& target, const std::string& name, unsigned pages);

}  // namespace moult::probe

#endif  // MOULT_POOL_PROBE_PROBE_H_
