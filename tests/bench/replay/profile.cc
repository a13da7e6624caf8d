// SPDX-License-Identifier: Apache-2.0
#include "replay/profile.h"

#include <cmath>
#include <numbers>

namespace moult::bench {
namespace {

const Profile kProfiles[] = {
    {.name = "azure",
     .rates = {{0, 0.1}, {0.45, 24}, {0.81, 1440}, {0.95, 2e4}, {0.99, 3e5}, {1, 1e7}},
     .triggers = {{Trigger::kTimer, 0.16},
                  {Trigger::kHttp, 0.55},
                  {Trigger::kQueue, 0.15},
                  {Trigger::kEvent, 0.02},
                  {Trigger::kOther, 0.12}},
     .timers_below = 0.81,
     .bursty = 0.5,
     .swing = 1.0 / 3,
     .duration_mu = -0.38,
     .duration_sigma = 2.36,
     .burr_c = 11.652,
     .burr_k = 0.221,
     .burr_lambda_mb = 107.083},
    {.name = "huawei",
     .rates = {{0, 1}, {0.3, 24}, {0.7, 1440}, {0.9, 1e5}, {0.99, 1e7}, {1, 1e9}},
     .triggers = {{Trigger::kTimer, 0.4},
                  {Trigger::kHttp, 0.3},
                  {Trigger::kQueue, 0.15},
                  {Trigger::kEvent, 0.1},
                  {Trigger::kOther, 0.05}},
     .timers_below = 0.7,
     .bursty = 0.5,
     .swing = 0.6,
     .duration_mu = -3,
     .duration_sigma = 1.8,
     .burr_c = 11.652,
     .burr_k = 0.221,
     .burr_lambda_mb = 107.083},
};

}  // namespace

double Random::Exponential() { return -std::log(Uniform()); }

double Random::Normal() {
  const double radius = std::sqrt(-2 * std::log(Uniform()));
  return radius * std::cos(2 * std::numbers::pi * Uniform());
}

const Profile* FindProfile(absl::string_view name) {
  for (const Profile& profile : kProfiles) {
    if (profile.name == name) return &profile;
  }
  return nullptr;
}

double RatePerDay(const Profile& profile, double u) {
  size_t i = 1;
  while (i + 1 < profile.rates.size() && u > profile.rates[i].below) ++i;
  const RatePoint& from = profile.rates[i - 1];
  const RatePoint& to = profile.rates[i];
  const double within = (u - from.below) / (to.below - from.below);
  return from.per_day * std::pow(to.per_day / from.per_day, within);
}

double BurrMb(const Profile& profile, double u) {
  return profile.burr_lambda_mb * std::pow(std::pow(1 - u, -1 / profile.burr_k) - 1, 1 / profile.burr_c);
}

}  // namespace moult::bench
