// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULTCTL_COMMANDS_H_
#define MOULT_TOOLS_MOULTCTL_COMMANDS_H_

#include <chrono>
#include <string>
#include <vector>

#include "backend.h"
#include "spec.h"

namespace moult::ctl {

// What the command line said. Each command uses its part.
struct Arguments {
  Where where;
  bool json = false;
  std::string function;  // id, or name of one that lives
  std::string name;      // of a template
  std::string from;      // the URI of the pool that has it
  std::string to;        // fork: the URI of the pool that gets it
  bool keep = false;     // fork
  std::string digest;    // that it must have
  std::string pages = "auto";
  bool end = false;
  bool settled = false;
  bool follow = false;
  bool cold_only = false;
  bool run_on = false;
  std::string segment = "all";
  std::string prefetch = "working-set";
  std::string policy;  // empty: none is given
  uint64_t tail_bytes = 0;
  RunFlags run;
  bool runs = false;    // pages
  std::string against;  // file of an earlier report
  std::string address;  // why
  bool hva = false;
  std::string png, svg;  // map: files
  size_t width = 0;      // 0: what suits
  bool hilbert = false;
  double interval = 2;  // top: seconds
  uint64_t count = 0;   // rounds; 0: without end
  bool no_pages = false;
};

struct PoolArguments {
  std::string verb;  // ls, stat, push, pull, rm, verify, format
  std::string uri;
  std::string name;
  std::string key;
  uint64_t size_mib = 0;  // format; 0: all of it
  bool force = false;     // format
  Where where;  // store, tenant
  bool json = false;
  // Of a file: pool, after which it does not answer any more; 0: never. A sync of all that was written is silent, too.
  uint32_t silence_s = 1800;
};

struct InvokeArguments {
  std::string path = "/";
  std::string method;
  std::string data;  // text, or @file, or @- for stdin
  std::vector<std::string> headers;
  bool include = false;
  bool fail = false;
  long timeout_ms = 60'000;
};

struct VmArguments {
  std::string kernel = "6.1";
  int memory_mb = 512;
  int window_mb = 2048;
  std::string window_device = "ivshmem";  // or virtio-pmem
  int cpus = 1;
  std::string dir;    // of sockets and logs; a new one when empty
  std::string store;  // default: DIR/templates
  std::string pool;   // of offloaded pages: a folder, or rdma://HOST[:PORT]/; default: DIR
  int pool_mib = 0;   // 0: as much as fits
  std::vector<std::string> settings;  // KEY=VALUE of MOULT_QEMU
  std::string tenant;
  std::string qemu = "qemu-system-x86_64";
  std::string accel;                 // tcg, kvm, or empty
  std::string cpu;                   // QEMU's model; empty: the best there is
  std::string agent;                 // the agent's binary
  std::vector<std::string> payload;  // NAME=FILE
  std::string append;
  int timeout_ms = 180000;  // until the agent answers
  bool detach = false;
  bool json = false;
};

// Each prints its result or error and returns the exit code.
using Command = int (*)(Backend&, const Arguments&);
int RunHello(Backend& backend, const Arguments& arguments);
int RunDoctor(Backend& backend, const Arguments& arguments);
int RunStatus(Backend& backend, const Arguments& arguments);
int RunMetrics(Backend& backend, const Arguments& arguments);
int RunRun(Backend& backend, const Arguments& arguments);
int RunPs(Backend& backend, const Arguments& arguments);
int RunFreeze(Backend& backend, const Arguments& arguments);
int RunThaw(Backend& backend, const Arguments& arguments);
int RunKill(Backend& backend, const Arguments& arguments);
int RunForget(Backend& backend, const Arguments& arguments);
int RunLogs(Backend& backend, const Arguments& arguments);
int RunPages(Backend& backend, const Arguments& arguments);
int RunWhy(Backend& backend, const Arguments& arguments);
int RunMap(Backend& backend, const Arguments& arguments);
int RunTop(Backend& backend, const Arguments& arguments);
int RunCapture(Backend& backend, const Arguments& arguments);
int RunFork(Backend& backend, const Arguments& arguments);
int RunAttach(Backend& backend, const Arguments& arguments);
int RunDetach(Backend& backend, const Arguments& arguments);
int RunRepurpose(Backend& backend, const Arguments& arguments);
int RunOffload(Backend& backend, const Arguments& arguments);
int RunRecall(Backend& backend, const Arguments& arguments);
int RunRecallAll(Backend& backend, const Arguments& arguments);
int RunPolicy(Backend& backend, const Arguments& arguments);
int RunTemplatesList(Backend& backend, const Arguments& arguments);
int RunTemplatesShow(Backend& backend, const Arguments& arguments);
int RunTemplatesVerify(Backend& backend, const Arguments& arguments);
int RunTemplatesRemove(Backend& backend, const Arguments& arguments);

int RunInvoke(Backend& backend, const Arguments& arguments, const InvokeArguments& invoke);
int RunVm(const VmArguments& arguments);
int RunPool(const PoolArguments& arguments);

// The id of a function: the number itself, or that of the only living one of this name.
absl::StatusOr<uint64_t> FunctionId(Backend& backend, const std::string& function);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_COMMANDS_H_
