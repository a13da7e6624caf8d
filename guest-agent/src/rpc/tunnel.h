// SPDX-License-Identifier: Apache-2.0
//
// A byte stream between the host and a function's endpoint.
#ifndef MOULT_RPC_TUNNEL_H_
#define MOULT_RPC_TUNNEL_H_

#include <poll.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <optional>

#include "moult/base/unique_fd.h"

namespace moult::agent {

// A function that is frozen or captured keeps its tunnels.
class Tunnel {
 public:
  using Clock = std::chrono::steady_clock;
  // How long a host may be silent after a function has sent its last byte. The host's end of a vsock connection need not
  // learn of a half close (user-space devices keep it to themselves), and would wait for the end of an answer for ever.
  static constexpr std::chrono::seconds kLinger{1};

  // `host` may be open elsewhere, too: it is shut down when this is destroyed.
  Tunnel(UniqueFd host, UniqueFd function);
  Tunnel(const Tunnel&) = delete;
  ~Tunnel();

  // What to poll for: the host's end, then the function's.
  std::array<pollfd, 2> Wanted() const;
  // When to call Advance at the latest, whatever comes.
  std::optional<Clock::time_point> deadline() const { return deadline_; }
  // Moves on by what came of that. False: it is over.
  bool Advance(const pollfd* polled);

 private:
  // One direction.
  class Flow {
   public:
    Flow(int from, int to);
    bool wants_read() const { return !ended_ && begin_ == end_; }
    bool wants_write() const { return begin_ != end_; }
    bool ended() const { return ended_ && begin_ == end_; }
    // False: the connection is broken.
    bool Read();
    bool Write();

   private:
    const int from_;
    const int to_;
    const size_t most_;  // in one send
    std::array<char, 65536> buffer_;
    size_t begin_ = 0;
    size_t end_ = 0;
    bool ended_ = false;
  };

  const UniqueFd host_;
  const UniqueFd function_;
  Flow down_;
  Flow up_;
  std::optional<Clock::time_point> deadline_;
};

}  // namespace moult::agent

#endif  // MOULT_RPC_TUNNEL_H_
