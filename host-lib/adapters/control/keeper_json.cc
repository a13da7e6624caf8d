// SPDX-License-Identifier: Apache-2.0
//
// What the keeper says of itself.
#include <algorithm>

#include "kept.h"

namespace moult::control {
namespace {

int64_t MillisOf(Keeper::Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

}  // namespace

Json Keeper::Counts::ToJson() const {
  return {{"freezes", freezes}, {"offloads", offloads}, {"offloaded_bytes", offloaded_bytes}, {"recalls", recalls},
          {"thaws", thaws},     {"ends", ends},         {"failures", failures}};
}

Json Keeper::Totals() const { return totals_.ToJson(); }

Json Keeper::Describe() const {
  Json list = Json::array();
  const Clock::time_point now = Clock::now();
  for (const auto& [function, kept] : kept_) {
    Json one{{"function", function},
             {"policy", kept->spec},
             {"state", kept->leaving ? "leaving" : kept->frozen ? "frozen" : IsAsked(*kept) ? "running" : "idle"},
             {"requests", Requests(function)},
             {"idle_ms", IsAsked(*kept) ? 0 : MillisOf(now - kept->last_end)}};
    if (!IsAsked(*kept)) one["next_ms"] = std::max<int64_t>(0, MillisOf(kept->wake - now));
    for (size_t i = 0; i < kSegmentNames.size(); ++i)
      one["segments"][kSegmentNames[i]] = {{"resident_bytes", kept->resident[i]}, {"offloaded_bytes", kept->offloaded[i]}};
    one["done"] = kept->counts.ToJson();
    if (held_.contains(function)) one["held"] = true;
    if (!kept->trouble.ok()) one["error"] = ErrorJson(kept->trouble);
    list.push_back(std::move(one));
  }
  return list;
}

}  // namespace moult::control
