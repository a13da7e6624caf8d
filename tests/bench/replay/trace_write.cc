// SPDX-License-Identifier: Apache-2.0
#include <cerrno>

#include "replay/trace.h"

namespace moult::bench {

absl::StatusOr<std::unique_ptr<TraceWriter>> TraceWriter::Create(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "we");
  if (file == nullptr) return ErrnoStatus(absl::StrCat("write trace ", path));
  std::unique_ptr<TraceWriter> writer(new TraceWriter(path, file));
  MOULT_RETURN_IF_ERROR(writer->Write("moult-trace,1\n"));
  return writer;
}

TraceWriter::~TraceWriter() {
  if (file_ != nullptr) std::fclose(file_);
}

absl::Status TraceWriter::Write(absl::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), file_) == text.size()) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("write trace ", path_));
}

absl::Status TraceWriter::Comment(absl::string_view text) { return Write(absl::StrCat("# ", text, "\n")); }

absl::Status TraceWriter::AddFunction(const TraceFunction& function) {
  const auto kib = [&](Segment segment) { return function.bytes[segment] >> 10; };
  const std::string cold = function.cold_start.count() == 0 ? "" : absl::StrCat(function.cold_start.count());
  return Write(absl::StrCat(absl::StrCat("f,", functions_++, ",", kib(Segment::kRuntime)), ",",
                            kib(Segment::kInit), ",", kib(Segment::kExec), ",", cold, ",",
                            TriggerName(function.trigger), "\n"));
}

absl::Status TraceWriter::Invoke(const Invocation& invocation) {
  char line[80];
  const int n =
      std::snprintf(line, sizeof(line), "i,%lld,%u,%lld\n", static_cast<long long>(invocation.at.count()),
                    invocation.function, static_cast<long long>(invocation.duration.count()));
  return Write({line, static_cast<size_t>(n)});
}

absl::Status TraceWriter::End(Micros at) {
  MOULT_RETURN_IF_ERROR(Write(absl::StrCat("end,", at.count(), "\n")));
  const int failed = std::fclose(std::exchange(file_, nullptr));
  return failed == 0 ? absl::OkStatus() : ErrnoStatus(absl::StrCat("write trace ", path_));
}

}  // namespace moult::bench
