// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <charconv>
#include <cstring>
#include <vector>

#include "replay/trace.h"

namespace moult::bench {
namespace {

constexpr absl::string_view kFirstLine = "moult-trace,1";
constexpr size_t kLongestLine = 4096;
constexpr uint64_t kMostKib = uint64_t{1} << 30;                   // 1 TiB
constexpr uint64_t kMostMicros = 10 * 366ull * 86400 * 1'000'000;  // ten years

// The fields after the first; `size` of them that are not there stay empty.
template <size_t size>
struct Fields {
  std::array<absl::string_view, size> values;
  size_t count = 0;  // more than size when there are more
};

template <size_t size>
Fields<size> Split(absl::string_view line) {
  Fields<size> fields;
  size_t from = line.find(',');
  while (from != absl::string_view::npos) {
    const size_t to = line.find(',', from + 1);
    if (fields.count < size) fields.values[fields.count] = line.substr(from + 1, to - from - 1);
    ++fields.count;
    from = to;
  }
  return fields;
}

absl::Status Number(absl::string_view field, const char* what, uint64_t most, uint64_t& to) {
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), to);
  if (error != std::errc() || end != field.data() + field.size() || to > most) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " is \"", field.substr(0, 40), "\"; it must be a whole number from 0 to ", most));
  }
  return absl::OkStatus();
}

constexpr std::pair<absl::string_view, Trigger> kTriggers[] = {{"other", Trigger::kOther},
                                                               {"http", Trigger::kHttp},
                                                               {"queue", Trigger::kQueue},
                                                               {"event", Trigger::kEvent},
                                                               {"timer", Trigger::kTimer}};

absl::Status FormError(absl::string_view form) {
  return absl::InvalidArgumentError(absl::StrCat("it must be ", form));
}

struct CloseFile {
  void operator()(std::FILE* file) const {
    if (file != stdin) std::fclose(file);
  }
};

}  // namespace

absl::string_view TriggerName(Trigger trigger) { return kTriggers[static_cast<size_t>(trigger)].first; }

absl::Status TraceParser::Line(absl::string_view line) {
  ++line_;
  const absl::Status status = Parse(line);
  if (status.ok()) return status;
  return Annotate(status, absl::StrCat("line ", line_));
}

absl::Status TraceParser::Parse(absl::string_view line) {
  if (line.size() > kLongestLine) return absl::InvalidArgumentError("it is longer than any line of a trace");
  if (line_ == 1) {
    if (line == kFirstLine) return absl::OkStatus();
    if (line.substr(0, 12) == "moult-trace,") {
      return absl::UnimplementedError(
          absl::StrCat("it is a trace of version ", line.substr(12, 40), "; this program reads version 1"));
    }
    return absl::InvalidArgumentError(absl::StrCat("it is no trace; the first line must be ", kFirstLine));
  }
  if (line.empty() || line.front() == '#') return absl::OkStatus();
  if (ended_) return absl::InvalidArgumentError("the trace has ended already");
  if (line.substr(0, 2) == "i,") return ParseInvocation(line);
  if (line.substr(0, 2) == "f,") return ParseFunction(line);
  if (line.substr(0, 4) == "end,") return ParseEnd(line);
  return absl::InvalidArgumentError("it begins with none of \"f,\", \"i,\", \"end,\", \"#\"");
}

absl::Status TraceParser::ParseFunction(absl::string_view line) {
  const auto [field, count] = Split<6>(line);
  if (count < 4 || count > 6) {
    return FormError("f,NUMBER,RUNTIME_KIB,INIT_KIB,EXEC_KIB[,COLD_START_US[,TRIGGER]]");
  }
  uint64_t number = 0;
  MOULT_RETURN_IF_ERROR(Number(field[0], "the function's number", UINT32_MAX - 1, number));
  if (number != functions_) {
    return absl::InvalidArgumentError(
        absl::StrCat("functions are numbered in order: this one is ", functions_, ", not ", number));
  }
  TraceFunction function;
  constexpr const char* kNames[] = {"RUNTIME_KIB", "INIT_KIB", "EXEC_KIB"};
  for (size_t i = 0; i < host::kSegments; ++i) {
    uint64_t kib = 0;
    MOULT_RETURN_IF_ERROR(Number(field[i + 1], kNames[i], kMostKib, kib));
    function.bytes.values[i] = kib << 10;
  }
  if (!field[4].empty()) {
    uint64_t micros = 0;
    MOULT_RETURN_IF_ERROR(Number(field[4], "COLD_START_US", kMostMicros, micros));
    function.cold_start = Micros(static_cast<Micros::rep>(micros));
  }
  if (count == 6) {
    const std::pair<absl::string_view, Trigger>* known = nullptr;
    for (const auto& trigger : kTriggers) {
      if (trigger.first == field[5]) known = &trigger;
    }
    if (known == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("TRIGGER is \"", field[5].substr(0, 40),
                                                     "\"; it must be other, http, queue, event or timer"));
    }
    function.trigger = known->second;
  }
  ++functions_;
  return sink_.AddFunction(function);
}

absl::Status TraceParser::TakeTime(absl::string_view field, Micros& to) {
  uint64_t micros = 0;
  MOULT_RETURN_IF_ERROR(Number(field, "TIME_US", kMostMicros, micros));
  to = Micros(static_cast<Micros::rep>(micros));
  if (to < last_) {
    return absl::InvalidArgumentError(absl::StrCat("time goes back, from ", last_.count(), " to ", micros,
                                                   "; sort the invocations by time"));
  }
  last_ = to;
  return absl::OkStatus();
}

absl::Status TraceParser::ParseInvocation(absl::string_view line) {
  const auto [field, count] = Split<3>(line);
  if (count != 3) return FormError("i,TIME_US,FUNCTION,DURATION_US");
  Invocation invocation;
  MOULT_RETURN_IF_ERROR(TakeTime(field[0], invocation.at));
  uint64_t number = 0;
  MOULT_RETURN_IF_ERROR(Number(field[1], "FUNCTION", UINT32_MAX - 1, number));
  if (number >= functions_) {
    return absl::InvalidArgumentError(
        absl::StrCat("function ", number, " is invoked before its own line, \"f,", number, ",...\""));
  }
  invocation.function = static_cast<uint32_t>(number);
  uint64_t micros = 0;
  MOULT_RETURN_IF_ERROR(Number(field[2], "DURATION_US", kMostMicros, micros));
  invocation.duration = Micros(static_cast<Micros::rep>(micros));
  return sink_.Invoke(invocation);
}

absl::Status TraceParser::ParseEnd(absl::string_view line) {
  const auto [field, count] = Split<1>(line);
  if (count != 1) return FormError("end,TIME_US");
  Micros at;
  MOULT_RETURN_IF_ERROR(TakeTime(field[0], at));
  ended_ = true;
  return sink_.End(at);
}

absl::Status TraceParser::Finish() const {
  if (line_ == 0) return absl::InvalidArgumentError("it is empty");
  if (ended_) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("it stops after line ", line_, " without \"end,TIME_US\"; is it whole?"));
}

absl::Status ReadTrace(const std::string& path, TraceSink& sink) {
  const std::string what = absl::StrCat("read trace ", path);
  const std::unique_ptr<std::FILE, CloseFile> file(path == "-" ? stdin : std::fopen(path.c_str(), "re"));
  if (file == nullptr) return ErrnoStatus(what);
  TraceParser parser(sink);
  std::vector<char> buffer(1 << 20);
  size_t kept = 0;  // of a line whose end was not read yet
  for (;;) {
    const size_t n = std::fread(buffer.data() + kept, 1, buffer.size() - kept, file.get());
    if (n == 0) break;
    absl::string_view rest(buffer.data(), kept + n);
    for (size_t end; (end = rest.find('\n')) != absl::string_view::npos; rest.remove_prefix(end + 1)) {
      MOULT_RETURN_IF_ERROR(Annotate(parser.Line(rest.substr(0, end)), what));
    }
    // An overlong line is refused by the parser; here, it must not fill the buffer.
    if (rest.size() > kLongestLine) return Annotate(parser.Line(rest), what);
    kept = rest.size();
    std::memmove(buffer.data(), rest.data(), kept);
  }
  if (std::ferror(file.get()) != 0) return ErrnoStatus(what);
  if (kept > 0) MOULT_RETURN_IF_ERROR(Annotate(parser.Line({buffer.data(), kept}), what));
  return Annotate(parser.Finish(), what);
}

}  // namespace moult::bench
