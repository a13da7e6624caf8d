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
  using Clock = std::chrono::steady_clock;

  // `fd` is non-blocking. `message_time` is what the host has for each message, and until it says Hello.
  Connection(UniqueFd fd, std::chrono::milliseconds message_time)
      : fd_(std::move(fd)), message_time_(message_time), hello_deadline_(Clock::now() + message_time) {}

  int fd() const { return fd_.get(); }
  // Reads on. A whole request; nullopt: more is to come; an error: the connection is of no use any more.
  // Not one byte behind the request is read, since it may be for a worker.
  absl::StatusOr<std::optional<rpc::Frame>> Read();
  void Queue(const std::string& bytes) {
    if (out_.empty()) out_deadline_ = Clock::now() + message_time_;
    out_ += bytes;
  }
  // Writes what it takes. An error: of no use any more.
  absl::Status Write();
  // What has come and what is to go, without a word to anybody: in a fork.
  void Forget() {
    payload_ = {};
    out_ = {};
  }
  bool has_output() const { return !out_.empty(); }
  // A request has begun, and is not whole.
  bool in_frame() const { return header_used_ != 0; }
  // What the host owes, and until when; null: nothing, for as long as it likes.
  struct Debt {
    const char* what = nullptr;
    Clock::time_point deadline = Clock::time_point::max();
  };
  Debt Owes() const;

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
  const std::chrono::milliseconds message_time_;
  const Clock::time_point hello_deadline_;
  Clock::time_point frame_deadline_;  // while in_frame()
  Clock::time_point out_deadline_;    // while has_output()
};

}  // namespace moult::agent

#endif  // MOULT_RPC_CONNECTION_H_
