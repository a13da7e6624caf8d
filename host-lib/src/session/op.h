// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_SESSION_OP_H_
#define MOULT_HOST_SESSION_OP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "json/json.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/message.h"
#include "reactor/reactor.h"
#include "reactor/task.h"

namespace moult::host {

class PageLedger;
class Vm;

enum class PageMode : uint32_t { kAuto = 0, kInPlace = 1, kCopy = 2 };

// What an operation has to say, whether it succeeds or not.
struct OpResult {
  uint64_t function = 0;
  uint64_t stopped_us = 0;
  uint64_t bytes = 0;
  uint64_t discarded_bytes = 0;
  bool detached = false;
  PageMode pages = PageMode::kAuto;
  std::shared_ptr<const PageLedger> ledger;
  Json json = Json::object();
};

// One operation of one vm. Used on the vm's thread, but for `worker`.
class Op {
 public:
  Op(const char* verb, Reactor* reactor, Clock::time_point deadline)
      : verb_(verb), strand_(std::make_unique<Strand>(reactor, deadline)), worker_(strand_->worker()) {}

  const char* verb() const { return verb_; }
  Strand* strand() { return strand_.get(); }
  const std::shared_ptr<Worker>& worker() const { return worker_; }
  OpResult& result() { return result_; }
  const OpResult& result() const { return result_; }

  // Phases follow each other: this one began where the last one ended.
  void EndPhase(const char* name);
  // The agent's own, which lie within one of ours.
  void AddAgentPhases(const std::vector<std::unique_ptr<rpc::PhaseT>>& phases);

  bool done() const { return status_.has_value(); }
  const absl::Status& status() const { return *status_; }
  uint64_t total_us() const { return total_us_; }
  const std::string& json() const { return json_; }

  bool started_ = false;
  UniqueFd fd;                             // of a tunnel or log
  std::function<void()> on_done;           // called once, by the vm
  void* handle = nullptr;                  // the C handle; null: it was freed
  std::optional<Task<absl::Status>> task;  // empty again when done

 private:
  friend class Vm;
  void Finish(absl::Status status);

  const char* const verb_;
  std::unique_ptr<Strand> strand_;  // null when done: the vm may be gone
  const std::shared_ptr<Worker> worker_;
  OpResult result_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point phase_start_ = start_;
  Json phases_ = Json::array();
  std::optional<absl::Status> status_;
  uint64_t total_us_ = 0;
  std::string json_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_SESSION_OP_H_
