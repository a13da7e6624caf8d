// SPDX-License-Identifier: Apache-2.0
#include "rpc/standby.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "rpc/log.h"
#include "rpc/packet.h"
#include "rpc/worker.h"

namespace moult::agent {
namespace {

constexpr size_t kMaxOrder = 128 << 10;  // a socket takes about 200 KiB at once
// The function that has just begun has better use for the CPU.
constexpr int kReadyAfterMs = 250;

// Before the request, in one packet; both ends are the same program.
struct OrderHeader {
  uint64_t call;
  uint32_t state_size;  // of FormatState, which comes next; the rest is the request
  bool has_cgroup;
  bool has_sandbox;
};

struct Order {
  OrderHeader header;
  std::unique_ptr<rpc::RequestT> request;
  UniqueFd connection;
  std::unique_ptr<Function> function;
};

absl::StatusOr<Order> Read(const Config& config, Packet packet) {
  Order order{};
  const absl::Status bad = absl::DataLossError("not an order");
  if (packet.bytes.size() < sizeof(order.header)) return bad;
  std::memcpy(&order.header, packet.bytes.data(), sizeof(order.header));
  const std::string_view rest = std::string_view(packet.bytes).substr(sizeof(order.header));
  if (packet.fds.size() != (order.header.has_sandbox ? 4u : 2u) || order.header.state_size > rest.size()) return bad;
  order.function = std::make_unique<Function>();
  Function& function = *order.function;
  MOULT_RETURN_IF_ERROR(ParseState(rest.substr(0, order.header.state_size), &function));
  MOULT_ASSIGN_OR_RETURN(order.request, rpc::ParseRequest(rest.substr(order.header.state_size)));
  const std::string id = absl::StrCat(function.info.id);
  function.folder = absl::StrCat(config.state_dir, "/functions/", id);
  order.connection = std::move(packet.fds[0]);
  function.init_pidfd = std::move(packet.fds[1]);
  if (order.header.has_cgroup) {
    MOULT_ASSIGN_OR_RETURN(function.cgroup, Cgroup::Open(config.cgroup_root, id));
  }
  if (!order.header.has_sandbox) return order;
  UniqueFd pidfd(fcntl(function.init_pidfd.get(), F_DUPFD_CLOEXEC, 3));
  if (!pidfd.valid()) return ErrnoStatus("dup");
  MOULT_ASSIGN_OR_RETURN(function.sandbox,
                         engine::Sandbox::Adopt(function.init_pid, std::move(pidfd), std::move(packet.fds[2]), std::move(packet.fds[3])));
  return order;
}

// The next order; while there is time, what it will need is done ahead.
Order Await(const Config& config, int agent, KeptTemplate* kept) {
  prctl(PR_SET_NAME, "moult-standby");
  for (bool ready = kept == nullptr;;) {
    pollfd fd{agent, POLLIN, 0};
    const int n = poll(&fd, 1, ready ? -1 : kReadyAfterMs);
    if (n == 0) {
      kept->restorer().GetReady();
      ready = true;
    }
    if (n <= 0) continue;
    auto packet = ReceivePacket(agent, kMaxOrder);
    if (packet.ok() && !packet->has_value()) continue;
    auto order = packet.ok() ? Read(config, **std::move(packet)) : packet.status();
    prctl(PR_SET_NAME, "moult-agent");
    if (order.ok()) return *std::move(order);
    if (!absl::IsCancelled(order.status())) Log(absl::StrCat("a worker that waited: ", order.status().ToString()));
    _exit(static_cast<int>(WorkerExit::kCloseConnection));
  }
}

}  // namespace

absl::Status SendOrder(int socket, int connection, uint64_t call, const rpc::RequestT& request,
                       const Function& function) {
  const std::string state = FormatState(function);
  OrderHeader header{};
  header.call = call;
  header.state_size = static_cast<uint32_t>(state.size());
  header.has_cgroup = function.cgroup != nullptr;
  header.has_sandbox = function.sandbox != nullptr;
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  bytes += state;
  bytes += rpc::Serialize(request);
  if (bytes.size() > kMaxOrder) return absl::ResourceExhaustedError("too long for an order");
  std::vector<int> fds{connection, function.init_pidfd.get()};
  if (function.sandbox != nullptr) {
    fds.push_back(function.sandbox->handles().time_namespace);
    fds.push_back(function.sandbox->shared_fd());
  }
  return SendPacket(socket, bytes, fds);
}

[[noreturn]] void StandBy(const Config& config, int agent, std::unique_ptr<KeptTemplate> kept) {
  for (;;) {
    Order order = Await(config, agent, kept.get());
    Worker worker(config, std::move(order.connection), order.header.call, *order.request, order.function.get(), agent);
    worker.kept = std::move(kept);
    const WorkerExit exit = Work(worker);
    if (exit != WorkerExit::kKeepConnection || worker.kept == nullptr) _exit(static_cast<int>(exit));
    kept = std::move(worker.kept);
    worker.Tell({.idle = true});
  }
}

}  // namespace moult::agent
