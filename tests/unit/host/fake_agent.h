// SPDX-License-Identifier: Apache-2.0
//
// An agent that does what a test tells it, on a unix socket, in threads of its own.
#ifndef MOULT_TESTS_UNIT_HOST_FAKE_AGENT_H_
#define MOULT_TESTS_UNIT_HOST_FAKE_AGENT_H_

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "moult/base/unique_fd.h"
#include "moult/protocol/channel.h"

namespace moult::host::testing {

class FakeAgent {
 public:
  // Answers one request. False: close the connection.
  using Handler = std::function<bool(rpc::Channel&, uint64_t id, rpc::RequestT&)>;

  // `connect`: ask for "CONNECT port" first, and take only this one; 0: no such line.
  FakeAgent(std::string path, uint32_t connect_port);
  ~FakeAgent();

  const std::string& path() const { return path_; }
  void On(rpc::RequestBody verb, Handler handler);
  // What is said to Hello.
  void SetHello(rpc::HelloReplyT hello);
  // The verbs that came, Hello left out.
  std::vector<std::string> Verbs();
  void ForgetVerbs();

 private:
  void Accept();
  void Serve(UniqueFd fd);
  bool Answer(rpc::Channel& channel, uint64_t id, rpc::RequestT& request);

  const std::string path_;
  const uint32_t connect_port_;
  UniqueFd listener_;
  UniqueFd stop_;
  std::mutex mutex_;  // guards the rest
  bool stopping_ = false;
  std::map<rpc::RequestBody, Handler> handlers_;
  rpc::HelloReplyT hello_;
  std::vector<std::string> verbs_;
  std::vector<int> connections_;
  std::vector<std::thread> threads_;
};

// Common answers.
bool Respond(rpc::Channel& channel, uint64_t id, rpc::ResponseT response);
bool RespondDone(rpc::Channel& channel, uint64_t id);
rpc::FunctionReplyT FunctionReply(uint64_t function, const std::string& template_name = "");
rpc::FunctionSpecT Spec();

}  // namespace moult::host::testing

#endif  // MOULT_TESTS_UNIT_HOST_FAKE_AGENT_H_
