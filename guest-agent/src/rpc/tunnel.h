// SPDX-License-Identifier: Apache-2.0
//
// A byte stream between the host and a function's endpoint.
#ifndef MOULT_RPC_TUNNEL_H_
#define MOULT_RPC_TUNNEL_H_

#include <poll.h>

#include <array>
#include <cstddef>

#include "moult/base/unique_fd.h"

namespace moult::agent {

// A function that is frozen or captured keeps its tunnels.
class Tunnel {
 public:
  // `host` may be open elsewhere, too: it is shut down when this is destroyed.
  Tunnel(UniqueFd host, UniqueFd function);
  Tunnel(const Tunnel&) = delete;
  ~Tunnel();

  // What to poll for: the host's end, then the function's.
  std::array<pollfd, 2> Wanted() const;
  // Moves on by what came of that. False: both directions have ended, or one is broken.
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
};

}  // namespace moult::agent

#endif  // MOULT_RPC_TUNNEL_H_
