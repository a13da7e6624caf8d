// SPDX-License-Identifier: Apache-2.0
//
// One policy over one trace, in virtual time. A function has at most one instance, which takes all its
// requests at once, as an application of Azure's does. Requests that come while it starts, or while what it
// needs is brought back, wait for the rest of that.
#ifndef MOULT_BENCH_REPLAY_REPLAY_H_
#define MOULT_BENCH_REPLAY_REPLAY_H_

#include <functional>
#include <memory>
#include <queue>
#include <utility>
#include <vector>

#include "replay/cost.h"
#include "replay/latencies.h"
#include "replay/trace.h"

namespace moult::bench {

// Bytes held over time.
class Level {
 public:
  void Advance(Micros now) {
    integral_ += static_cast<Integral>(bytes_) * static_cast<Integral>((now - since_).count());
    since_ = now;
  }
  // At the time of the last Advance().
  void Add(uint64_t bytes) { peak_ = std::max(peak_, bytes_ += bytes); }
  void Remove(uint64_t bytes) { bytes_ -= bytes; }

  uint64_t bytes() const { return bytes_; }
  uint64_t peak() const { return peak_; }
  double ByteSeconds() const { return static_cast<double>(integral_) / 1e6; }

 private:
  // A TiB for ten years, in byte µs, does not fit into 64 bits.
  __extension__ typedef unsigned __int128 Integral;

  uint64_t bytes_ = 0;
  uint64_t peak_ = 0;
  Integral integral_ = 0;
  Micros since_{0};
};

struct ReplayResult {
  Micros length{0};
  uint64_t functions = 0;
  uint64_t invocations = 0;
  Level resident;     // guest memory on the host
  Level offloaded;    // in the pool
  Latencies latency;  // beyond the execution itself, of each invocation
  uint64_t cold_starts = 0;
  uint64_t recalled = 0;  // invocations that met a recall: had to begin one, or waited for it
  uint64_t ends = 0;      // functions ended by the policy
  uint64_t offload_bytes = 0;
  uint64_t recall_bytes = 0;
};

class Replay final : public TraceSink {
 public:
  Replay(host::Policy& policy, const CostModel& cost) : policy_(policy), cost_(cost) {}

  absl::Status AddFunction(const TraceFunction& function) override;
  absl::Status Invoke(const Invocation& invocation) override;
  absl::Status End(Micros at) override;

  const ReplayResult& result() const { return result_; }

 private:
  enum class State : uint8_t { kAbsent, kBusy, kMoving, kResting };
  // The part of a segment that a request touches, and the rest. Offload takes the rest first: the host knows
  // from recalls what is touched.
  struct Part {
    uint64_t hot = 0;
    uint64_t cold = 0;
    uint64_t hot_out = 0;
    uint64_t cold_out = 0;
    uint64_t Resident() const { return hot + cold - hot_out - cold_out; }
    uint64_t Out() const { return hot_out + cold_out; }
  };
  struct Function {
    PerSegment<Part> parts;
    PerSegment<uint64_t> moving;  // kMoving: what leaves at `due`
    Micros cold_start{0};
    Micros last_start{0};
    Micros last_end{0};
    Micros ready{0};       // when the last start or recall is over
    Micros busy_until{0};  // when the last of its requests ends
    Micros wake = host::kNever;
    Micros due = host::kNever;        // when something happens to it next
    Micros queued_at = host::kNever;  // its valid entry in queue_
    State state = State::kAbsent;
    bool frozen = false;
    bool ran = false;
    bool recalling = false;  // what `ready` is about
    host::Intervals intervals;
  };
  using Entry = std::pair<Micros, uint32_t>;

  void RunUntil(Micros now);
  void SetDue(uint32_t number, Micros at);
  void Happen(uint32_t number);
  void Ask(uint32_t number);
  void Rest(uint32_t number);
  void Move(Function& function);
  void Leave(Function& function);
  Micros Start(Function& function);
  Micros Recall(uint32_t number);
  host::FunctionView View(uint32_t number, host::FunctionState state) const;
  void Advance(Micros now);
  void Bring(Part& part, uint64_t hot, uint64_t cold);

  host::Policy& policy_;
  const CostModel cost_;
  std::vector<Function> functions_;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue_;
  Micros now_{0};
  ReplayResult result_;
};

// Feeds each of them with all of one trace.
class ReplayAll final : public TraceSink {
 public:
  void Add(host::Policy& policy, const CostModel& cost) {
    replays_.push_back(std::make_unique<Replay>(policy, cost));
  }
  const std::vector<std::unique_ptr<Replay>>& replays() const { return replays_; }

  absl::Status AddFunction(const TraceFunction& function) override;
  absl::Status Invoke(const Invocation& invocation) override;
  absl::Status End(Micros at) override;

 private:
  std::vector<std::unique_ptr<Replay>> replays_;
};

}  // namespace moult::bench

#endif  // MOULT_BENCH_REPLAY_REPLAY_H_
