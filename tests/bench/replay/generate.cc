// SPDX-License-Identifier: Apache-2.0
#include "replay/generate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numbers>
#include <numeric>
#include <queue>
#include <utility>
#include <vector>

#include "replay/profile.h"

namespace moult::bench {
namespace {

constexpr double kDay = 86400;
constexpr double kMostMb = 1536;       // what Azure lets an application have
constexpr double kMostDuration = 600;  // s; and let it run
constexpr double kLeastDuration = 0.001;

struct Source {
  Trigger trigger = Trigger::kOther;
  bool bursty = false;
  double gap = 0;       // s, between invocations in the mean; of a timer exactly
  double next = 0;      // s
  double duration = 0;  // s, in the mean
  Random random{0};
};

// The shortest usual period that is no shorter than `gap`.
double TimerPeriod(double gap) {
  for (const double period : {60, 300, 600, 900, 1800, 3600, 4 * 3600, 12 * 3600}) {
    if (gap <= period) return period;
  }
  return kDay;
}

// Busiest at 14 o'clock; the trace begins at midnight.
double FactorOfDay(double time, double swing) {
  return 1 + swing * std::cos(2 * std::numbers::pi * (time / kDay - 14.0 / 24));
}

// In the mean 1. Bursts: nine gaps in ten are short; the coefficient of variation is 3.5.
double Gap(Source& source) {
  if (!source.bursty) return source.random.Exponential();
  return source.random.Exponential() * (source.random.Uniform() < 0.9 ? 0.2 : 8.2);
}

void Advance(Source& source, double swing) {
  if (source.trigger == Trigger::kTimer) {
    source.next += source.gap;
  } else {
    source.next += Gap(source) * source.gap / FactorOfDay(source.next, swing);
  }
}

template <typename T>
void Shuffle(std::vector<T>& values, Random& random) {
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.Next() % i]);
}

// Share `i + 1/2` of `count`, shuffled: so that a few hundred functions have the distribution, and not a
// sample of it that lacks its tail.
std::vector<double> Strata(uint32_t count, Random& random) {
  std::vector<double> strata(count);
  for (uint32_t i = 0; i < count; ++i) strata[i] = (i + 0.5) / count;
  Shuffle(strata, random);
  return strata;
}

// As many of each as its share says; timers among the rarely invoked.
std::vector<Trigger> Triggers(const Profile& profile, const std::vector<double>& rate, Random& random) {
  std::vector<Trigger> triggers(rate.size(), Trigger::kOther);
  std::vector<uint32_t> order(rate.size());
  std::iota(order.begin(), order.end(), 0);
  Shuffle(order, random);
  std::stable_partition(order.begin(), order.end(),
                        [&](uint32_t i) { return rate[i] < profile.timers_below; });
  size_t from = 0;
  for (const TriggerShare& share : profile.triggers) {
    const auto count = static_cast<size_t>(std::lround(share.share * static_cast<double>(rate.size())));
    const size_t to = std::min(order.size(), from + count);
    for (; from < to; ++from) triggers[order[from]] = share.trigger;
  }
  return triggers;
}

TraceFunction Memory(double mb, Trigger trigger, Random& random) {
  constexpr std::array<double, 3> kRuntimesMb = {30, 45, 80};  // python, node, java
  const double exec = mb * (0.1 + 0.2 * random.Uniform());
  const double runtime = std::min(0.6 * mb, kRuntimesMb[random.Next() % kRuntimesMb.size()]);
  const auto bytes = [](double megabytes) { return static_cast<uint64_t>(megabytes * 1e6 / 1024) << 10; };
  TraceFunction function;
  function.bytes[Segment::kRuntime] = bytes(runtime);
  function.bytes[Segment::kInit] = bytes(mb - exec - runtime);
  function.bytes[Segment::kExec] = bytes(exec);
  function.trigger = trigger;
  return function;
}

absl::StatusOr<std::vector<Source>> MakeFunctions(const GenerateOptions& options, const Profile& profile,
                                                  TraceSink& sink) {
  Random random(options.seed);
  const std::vector<double> rate = Strata(options.functions, random);
  const std::vector<double> memory = Strata(options.functions, random);
  const std::vector<Trigger> triggers = Triggers(profile, rate, random);
  std::vector<Source> sources(options.functions);
  for (uint32_t i = 0; i < options.functions; ++i) {
    Source& source = sources[i];
    const double per_second = std::min(options.most_per_second, RatePerDay(profile, rate[i]) / kDay);
    source.trigger = triggers[i];
    source.bursty = source.trigger != Trigger::kTimer && random.Uniform() < profile.bursty;
    source.gap = source.trigger == Trigger::kTimer ? TimerPeriod(1 / per_second) : 1 / per_second;
    source.duration = std::clamp(std::exp(profile.duration_mu + profile.duration_sigma * random.Normal()),
                                 kLeastDuration, kMostDuration);
    // Not all at once at the beginning.
    source.next = source.gap * random.Uniform();
    source.random = Random(random.Next());
    const double mb = std::min(kMostMb, BurrMb(profile, memory[i]));
    MOULT_RETURN_IF_ERROR(sink.AddFunction(Memory(mb, source.trigger, random)));
  }
  return sources;
}

Micros ToMicros(double seconds) { return Micros(std::llround(seconds * 1e6)); }

}  // namespace

absl::Status Generate(const GenerateOptions& options, TraceSink& sink) {
  const Profile* profile = FindProfile(options.profile);
  if (profile == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("there is no profile \"", options.profile, "\"; there are azure, huawei"));
  }
  MOULT_ASSIGN_OR_RETURN(std::vector<Source> sources, MakeFunctions(options, *profile, sink));
  const double length = options.hours * 3600;
  using Next = std::pair<double, uint32_t>;
  std::priority_queue<Next, std::vector<Next>, std::greater<>> queue;
  for (uint32_t i = 0; i < options.functions; ++i) queue.emplace(sources[i].next, i);
  // Of an invocation's duration around its function's mean; narrow, and of mean 1.
  constexpr double kSpread = 0.3;
  while (!queue.empty() && queue.top().first < length) {
    const auto [at, number] = queue.top();
    queue.pop();
    Source& source = sources[number];
    const double duration =
        source.duration * std::exp(kSpread * source.random.Normal() - kSpread * kSpread / 2);
    MOULT_RETURN_IF_ERROR(sink.Invoke({ToMicros(at), number, ToMicros(std::max(kLeastDuration, duration))}));
    Advance(source, profile->swing);
    queue.emplace(source.next, number);
  }
  return sink.End(ToMicros(length));
}

}  // namespace moult::bench
