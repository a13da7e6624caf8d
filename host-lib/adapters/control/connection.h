// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_CONTROL_CONNECTION_H_
#define MOULT_ADAPTERS_CONTROL_CONNECTION_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "moult/base/unique_fd.h"

namespace moult::control {

// One client: cuts what it sends into lines, and sends what it is to get, as it takes it.
class Connection {
 public:
  explicit Connection(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }
  short events() const;
  // Calls still unanswered.
  int pending = 0;
  // No more requests are read: a stream is being opened, or the last line was bad.
  bool paused = false;
  bool close_when_sent = false;

  // Reads what is there. False: the client has gone. One that only sends no more is still owed its answers.
  bool Receive();
  // The next whole line without its newline. kInvalidArgument: it is too long.
  absl::StatusOr<std::optional<std::string>> NextLine();
  void Send(std::string line);
  // False: it has gone, or does not take what it asked for.
  bool Flush();
  // It should take answers before it gets to ask more.
  bool backlogged() const;
  bool sent() const { return out_.empty(); }
  bool input_ended() const { return input_ended_; }

  // For a pump.
  UniqueFd TakeFd() { return std::move(fd_); }
  std::string TakeInput();
  std::string TakeOutput() { return std::move(out_); }

 private:
  UniqueFd fd_;
  std::string in_;
  std::string out_;
  bool input_ended_ = false;
  size_t begin_ = 0;     // of the next line in in_
  size_t searched_ = 0;  // bytes of in_ known to hold no newline
};

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_CONNECTION_H_
