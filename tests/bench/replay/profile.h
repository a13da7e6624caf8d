// SPDX-License-Identifier: Apache-2.0
//
// What published statistics say of functions, as distributions to draw from. Sources: trace.md, "Generator".
#ifndef MOULT_BENCH_REPLAY_PROFILE_H_
#define MOULT_BENCH_REPLAY_PROFILE_H_

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "replay/trace.h"

namespace moult::bench {

// The same numbers on every machine, which those of the standard library are not.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // Above 0 and below 1.
  double Uniform() { return (static_cast<double>(Next() >> 11) + 0.5) * 0x1p-53; }
  double Exponential();  // of mean 1
  double Normal();       // of mean 0 and deviation 1

 private:
  uint64_t state_;
};

// Share `below` of the functions have at most `per_day` invocations; between two points, rates are spread
// evenly by their logarithm.
struct RatePoint {
  double below;
  double per_day;
};

struct TriggerShare {
  Trigger trigger;
  double share;  // of functions
};

struct Profile {
  absl::string_view name;
  std::vector<RatePoint> rates;
  std::vector<TriggerShare> triggers;
  double timers_below;  // timers are rare functions: among this share of all
  double bursty;        // share of those without timer whose requests come in bursts
  double swing;         // of the rate over a day: from 1 - swing to 1 + swing
  double duration_mu;   // a function's mean duration in s is lognormal
  double duration_sigma;
  double burr_c, burr_k, burr_lambda_mb;  // memory in MB is Burr XII
};

// Null when there is none of that name.
const Profile* FindProfile(absl::string_view name);

// The rate that share `u` of the functions do not exceed.
double RatePerDay(const Profile& profile, double u);
double BurrMb(const Profile& profile, double u);

}  // namespace moult::bench

#endif  // MOULT_BENCH_REPLAY_PROFILE_H_
