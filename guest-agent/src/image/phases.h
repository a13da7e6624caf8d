// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_IMAGE_PHASES_H_
#define MOULT_IMAGE_PHASES_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace moult::engine {

// Where the time of an operation goes: named phases, one after the other.
class Phases {
 public:
  using Clock = std::chrono::steady_clock;

  // Ends the phase that runs since the last call (or since construction) under this name.
  void End(std::string name) {
    const auto now = Clock::now();
    done_.emplace_back(std::move(name), Micros(last_, now));
    last_ = now;
  }
  // The same, where `inner_us` of it went to another phase.
  void Split(std::string name, std::string inner, uint64_t inner_us) {
    End(std::move(name));
    uint64_t& outer_us = done_.back().second;
    inner_us = std::min(inner_us, outer_us);
    outer_us -= inner_us;
    done_.emplace_back(std::move(inner), inner_us);
  }
  // Ends the phase that runs, which was made of `parts`.
  void Take(const Phases& parts) {
    done_.insert(done_.end(), parts.done_.begin(), parts.done_.end());
    last_ = Clock::now();
  }
  uint64_t TotalMicros() const { return Micros(start_, Clock::now()); }
  const std::vector<std::pair<std::string, uint64_t>>& done() const { return done_; }

 private:
  static uint64_t Micros(Clock::time_point from, Clock::time_point to) {
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(to - from).count());
  }
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
  std::vector<std::pair<std::string, uint64_t>> done_;
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_PHASES_H_
