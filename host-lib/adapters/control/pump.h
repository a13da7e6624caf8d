// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_CONTROL_PUMP_H_
#define MOULT_ADAPTERS_CONTROL_PUMP_H_

#include <poll.h>

#include <string>

#include "moult/base/unique_fd.h"

namespace moult::control {

// Carries bytes between two non-blocking stream sockets, both ways, until both have ended or one broke. Holds
// at most 64 KiB a direction, and reads no more while the other side does not take it.
class Pump {
 public:
  // `first` goes to the client before all else; `pending` came from the client before.
  Pump(UniqueFd client, UniqueFd stream, std::string first, std::string pending);

  // What to poll for. The descriptors are negative where there is nothing to wait for.
  void Want(pollfd* client, pollfd* stream) const;
  // Carries what can be carried. False: it is over.
  bool Process();

 private:
  struct Direction {
    std::string buffer;
    bool ended = false;  // its source has no more
    bool shut = false;   // and its destination was told so
  };
  // False: a side broke.
  static bool Carry(int from, int to, Direction& direction);
  static bool WantsRead(const Direction& direction);

  UniqueFd client_;
  UniqueFd stream_;
  Direction up_;    // client to stream
  Direction down_;  // stream to client
};

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_PUMP_H_
