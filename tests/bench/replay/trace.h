// SPDX-License-Identifier: Apache-2.0
//
// Invocation traces: what a replay needs of a workload. The format is in trace.md; readers, the generator and
// replays meet at TraceSink, so that any of them can feed any other, one invocation at a time.
#ifndef MOULT_BENCH_REPLAY_TRACE_H_
#define MOULT_BENCH_REPLAY_TRACE_H_

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "moult/base/status.h"
#include "policy/policy.h"

namespace moult::bench {

using host::Micros;
using host::PerSegment;
using host::Segment;

enum class Trigger : uint8_t { kOther, kHttp, kQueue, kEvent, kTimer };

struct TraceFunction {
  PerSegment<uint64_t> bytes;
  Micros cold_start{0};  // 0: the cost model's
  Trigger trigger = Trigger::kOther;
};

struct Invocation {
  Micros at{0};  // since the trace began
  uint32_t function = 0;
  Micros duration{0};  // of the execution alone
};

// What a trace says, in order: functions are numbered from 0 as they come, and are there before they are
// invoked; times do not go back; the end is said once.
class TraceSink {
 public:
  virtual ~TraceSink() = default;
  virtual absl::Status AddFunction(const TraceFunction& function) = 0;
  virtual absl::Status Invoke(const Invocation& invocation) = 0;
  virtual absl::Status End(Micros at) = 0;
};

// One line after the other, without its line end. Errors name the line and what is wrong with it.
class TraceParser {
 public:
  explicit TraceParser(TraceSink& sink) : sink_(sink) {}
  absl::Status Line(absl::string_view line);
  absl::Status Finish() const;  // an error when the trace is torn

 private:
  absl::Status Parse(absl::string_view line);
  absl::Status ParseFunction(absl::string_view line);
  absl::Status ParseInvocation(absl::string_view line);
  absl::Status ParseEnd(absl::string_view line);
  absl::Status TakeTime(absl::string_view field, Micros& to);

  TraceSink& sink_;
  uint64_t line_ = 0;
  uint32_t functions_ = 0;
  Micros last_{0};
  bool ended_ = false;
};

// Reads `path` ("-": standard input) to its end, in memory that does not grow with it.
absl::Status ReadTrace(const std::string& path, TraceSink& sink);

// Writes a file; complete when End() has returned OK.
class TraceWriter final : public TraceSink {
 public:
  static absl::StatusOr<std::unique_ptr<TraceWriter>> Create(const std::string& path);
  ~TraceWriter() override;
  TraceWriter(const TraceWriter&) = delete;

  absl::Status Comment(absl::string_view text);
  absl::Status AddFunction(const TraceFunction& function) override;
  absl::Status Invoke(const Invocation& invocation) override;
  absl::Status End(Micros at) override;

 private:
  TraceWriter(std::string path, std::FILE* file) : path_(std::move(path)), file_(file) {}
  absl::Status Write(absl::string_view text);

  const std::string path_;
  std::FILE* file_;
  uint32_t functions_ = 0;
};

absl::string_view TriggerName(Trigger trigger);

}  // namespace moult::bench

#endif  // MOULT_BENCH_REPLAY_TRACE_H_
