// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "moult/base/status.h"
#include "policy/builtin.h"

namespace moult::host {
namespace {

// Writes the value into the parameters that it was made for.
struct Key {
  absl::string_view name;
  std::function<absl::Status(absl::string_view)> set;
};

absl::StatusOr<double> Number(absl::string_view text, double least, double most) {
  double value = 0;
  // Not in range is also what NaN is.
  if (!absl::SimpleAtod(text, &value) || !(value >= least && value <= most)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is no number from ", least, " to ", most));
  }
  return value;
}

Key Seconds(absl::string_view name, Micros& to) {
  return {name, [&to](absl::string_view text) -> absl::Status {
            constexpr double kMost = 366.0 * 86400;
            MOULT_ASSIGN_OR_RETURN(const double seconds, Number(text, 0, kMost));
            to = Micros(static_cast<Micros::rep>(seconds * 1e6 + 0.5));
            return absl::OkStatus();
          }};
}

Key Share(absl::string_view name, double& to) {
  return {name, [&to](absl::string_view text) -> absl::Status {
            MOULT_ASSIGN_OR_RETURN(to, Number(text, 0, 1));
            return absl::OkStatus();
          }};
}

template <typename T>
Key Amount(absl::string_view name, double unit, double least, double most, T& to) {
  return {name, [&to, unit, least, most](absl::string_view text) -> absl::Status {
            MOULT_ASSIGN_OR_RETURN(const double value, Number(text, least, most));
            to = static_cast<T>(value * unit);
            return absl::OkStatus();
          }};
}

Key RecallMode(absl::string_view name, Recall& to) {
  return {name, [&to](absl::string_view text) -> absl::Status {
            if (text == "faults") {
              to = Recall::kFaults;
            } else if (text == "working-set") {
              to = Recall::kWorkingSet;
            } else if (text == "all") {
              to = Recall::kAll;
            } else {
              return absl::InvalidArgumentError(
                  absl::StrCat("\"", text, "\" is none of faults, working-set, all"));
            }
            return absl::OkStatus();
          }};
}

absl::Status SetAll(absl::string_view policy, const std::vector<Key>& keys,
                    const std::vector<absl::string_view>& given) {
  for (const absl::string_view text : given) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(text, absl::MaxSplits('=', 1));
    const Key* key = nullptr;
    for (const Key& known : keys) {
      if (known.name == pair.first) key = &known;
    }
    if (key == nullptr) {
      const auto name = [](std::string* out, const Key& k) { absl::StrAppend(out, k.name); };
      return absl::InvalidArgumentError(
          absl::StrCat("policy ", policy, ": there is no parameter \"", pair.first, "\"; it has ",
                       keys.empty() ? "none" : absl::StrJoin(keys, ", ", name)));
    }
    MOULT_RETURN_IF_ERROR(Annotate(key->set(pair.second), absl::StrCat("policy ", policy, ": ", key->name)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(absl::string_view spec) {
  std::vector<absl::string_view> words = absl::StrSplit(spec, ':');
  const absl::string_view name = words.front();
  words.erase(words.begin());
  if (name == "none") {
    MOULT_RETURN_IF_ERROR(SetAll(name, {}, words));
    return std::make_unique<NonePolicy>();
  }
  if (name == "fixed") {
    FixedParameters fixed;
    MOULT_RETURN_IF_ERROR(SetAll(name, {Seconds("keep_alive_s", fixed.keep_alive)}, words));
    return std::make_unique<FixedPolicy>(fixed);
  }
  if (name == "semi-warm") {
    SemiWarmParameters p;
    constexpr double kMib = 1 << 20;
    MOULT_RETURN_IF_ERROR(
        SetAll(name,
               {Seconds("settle_s", p.settle), Share("init_percentile", p.init_percentile),
                Amount("init_known", 1, 1, Intervals::kMost / 2, p.init_known),
                Seconds("init_unknown_s", p.init_unknown), Seconds("init_least_s", p.init_least),
                Seconds("init_most_s", p.init_most), Amount("step_mib", kMib, 1 / 256.0, 1 << 20, p.step),
                Share("step_share", p.step_share), Seconds("step_every_s", p.step_every),
                Seconds("end_after_s", p.end_after), RecallMode("recall", p.recall),
                Share("pressure_from", p.pressure_from)},
               words));
    // At 0, time would stand still between two questions.
    if (p.step_every < std::chrono::milliseconds(1)) {
      return absl::InvalidArgumentError("policy semi-warm: step_every_s is under 0.001; make it larger");
    }
    return std::make_unique<SemiWarmPolicy>(p);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("there is no policy \"", name, "\"; there are none, fixed, semi-warm"));
}

}  // namespace moult::host
