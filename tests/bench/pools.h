// SPDX-License-Identifier: Apache-2.0
//
// What an attach from a pool takes in a real guest, by kind of pool, cold and warm, beside one from the VM's own store
// in the same rounds; and what it moves.
#ifndef MOULT_BENCH_POOLS_H_
#define MOULT_BENCH_POOLS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "moult/base/status.h"
#include "stats.h"

namespace moult::bench {

struct PoolArguments {
  std::string json;
  std::string kernel = "6.1";
  std::string qemu = "qemu-system-x86_64";
  std::string bin;      // folder of moultctl
  std::string sources;  // of the functions: tests/demo/functions
  std::string work = "/tmp";
  std::vector<std::string> functions{"python", "node", "java"};
  std::string dax;   // device or file; empty: none
  std::string rdma;  // URI; empty: none
  std::string key;   // file with the key of templates without a tenant, for rdma
  int rounds = 5;
  int prefetch_mib = 16;  // a second; what a VM has by default
};

// One way to attach one function. `samples`, of each round: first_answer, working_set, all_pages in µs;
// first_answer_bytes, working_set_bytes, all_bytes that had come from the pool by then, cache_bytes that were mapped
// from the host's cache by the last of these.
struct PoolWay {
  std::string pool;  // "store", "file", "dax", "rdma"
  std::string mode;  // "plain", "cold", "cold_set", "warm"
  Samples samples;
};

struct PoolFunction {
  std::string name;
  uint64_t pages_bytes = 0;
  std::vector<PoolWay> ways;  // first the peer: plain, from the store
};

struct PoolReport {
  std::string accel, guest_kernel;
  int rounds = 0;
  int prefetch_mib = 0;
  std::vector<PoolFunction> functions;
  std::vector<std::pair<std::string, std::string>> skipped;  // and why
};

absl::StatusOr<PoolReport> MeasurePools(const PoolArguments& arguments);

int RunPools(const PoolArguments& arguments);

}  // namespace moult::bench

#endif  // MOULT_BENCH_POOLS_H_
