// SPDX-License-Identifier: Apache-2.0
//
// A real moult-agent on a unix socket with a state folder of its own, for tests.
#ifndef MOULT_TESTS_AGENT_DAEMON_H_
#define MOULT_TESTS_AGENT_DAEMON_H_

#include <gtest/gtest.h>
#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "moult/protocol/channel.h"

namespace moult::agent {

// Long enough for a machine that does other things, too.
inline constexpr std::chrono::seconds kPatience{60};
inline rpc::Clock::time_point Soon() { return rpc::Clock::now() + kPatience; }

class Client {
 public:
  explicit Client(UniqueFd fd) : channel(std::move(fd)) {}
  template <typename Body>
  absl::StatusOr<std::unique_ptr<rpc::ResponseT>> Call(Body body) {
    return channel.Call(rpc::MakeRequest(std::move(body)), Soon());
  }
  rpc::Channel channel;
};

struct Template {
  std::vector<uint8_t> image;
  std::vector<uint8_t> manifest;
  std::vector<std::byte> pages;
  rpc::FunctionSpecT spec;
};

class AgentTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // `extra` are members of the configuration: ", \"max_connections\": 2".
  void StartAgent(const std::string& extra = "");
  void KillAgent(int signal);  // and waits for its end
  bool AgentRuns() const;
  // All that this agent has said, and until it has said `text`.
  std::string Log() const;
  void AwaitLog(const std::string& text);
  // Connected; said Hello.
  std::unique_ptr<Client> Connect();
  UniqueFd ConnectRaw();
  // The agent's children that are workers, not inits; "moult-standby": those that wait for something to do.
  std::vector<pid_t> Workers(const std::string& name = "moult-agent") const;

  // A server on a unix socket that answers each request with how many it has had.
  static rpc::FunctionSpecT CounterSpec();
  // For page content behind it.
  static rpc::AttachT AttachOf(const Template& from);
  // Reads to the end, if that comes.
  static bool ClosedByPeer(int fd);
  // Ids of a function that runs.
  uint64_t RunCounter(Client& client);
  // What the counter answers, over a tunnel; "" and a failure when it does not.
  std::string Ask(uint64_t function);
  absl::StatusOr<Template> CaptureCopy(Client& client, uint64_t function, rpc::CaptureOutcome outcome);
  absl::StatusOr<uint64_t> AttachStream(Client& client, const Template& from);
  std::unique_ptr<rpc::FunctionInfoT> Info(Client& client, uint64_t function);
  // Until no function but those of `count` is known, and no worker is left.
  void AwaitQuiet(Client& client, size_t count);
  // Waits until the function is in that state.
  void AwaitState(Client& client, uint64_t function, rpc::FunctionState state);

  std::string folder_;
  std::string cgroup_root_;  // empty: this machine has none to write to
  pid_t agent_ = -1;
};

}  // namespace moult::agent

#endif  // MOULT_TESTS_AGENT_DAEMON_H_
