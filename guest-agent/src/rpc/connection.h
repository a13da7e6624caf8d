// SPDX-License-Identifier: Apache-2.0
//
// A host's connection as the main process has it: never blocks, never reads more than one request.
#ifndef MOULT_RPC_CONNECTION_H_
#define MOULT_RPC_CONNECTION_H_

#include <array>
#include <chrono>
#include <optional>
#include <string>

#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/frame.h"

namespace moult::agent {

class Connection {
 public:
  // `fd` is non-blocking.
  explicit Connection(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }
  // Reads on. A whole request; nullopt: more is to come; an error: the connection is of no use any more.
  // Not one byte behind the request is read, since it may be for a worker.
  absl::StatusOr<std::optional<rpc::Frame>> Read();
  void Queue(const std::string& bytes) { out_ += bytes; }
  // Writes what it takes. An error: of no use any more.
  absl::Status Write();
  // What has come and what is to go, without a word to anybody: in a fork.
  void Forget() {
    payload_ = {};
    out_ = {};
  }
  bool has_output() const { return !out_.empty(); }
  // When a request that has begun must be here; max when none has.
  std::chrono::steady_clock::time_point frame_deadline() const { return frame_deadline_; }

  bool said_hello = false;
  bool busy = false;     // a worker has it, or an answer is to come
  bool closing = false;  // once the output is written
  bool dead = false;

 private:
  UniqueFd fd_;
  std::array<char, rpc::kFrameHeaderSize> header_{};
  size_t header_used_ = 0;
  rpc::FrameHeader decoded_{};
  std::string payload_;
  std::string out_;
  std::chrono::steady_clock::time_point frame_deadline_ = std::chrono::steady_clock::time_point::max();
};

}  // namespace moult::agent

#endif  // MOULT_RPC_CONNECTION_H_
