// SPDX-License-Identifier: Apache-2.0
#include "proc/values.h"

#include "proc/text.h"

namespace moult::proc {
namespace {

// The only line; false when there is more.
bool OnlyLine(std::string_view text, std::string_view* line) {
  Lines lines(text);
  std::string_view none;
  return lines.Next(line) && !lines.Next(&none);
}

bool TakePointer(Scanner* scanner, uint64_t* value) {
  return scanner->Blanks() && scanner->Literal("0x") && scanner->Hex(value);
}

}  // namespace

absl::StatusOr<uint32_t> ParseHexFile(std::string_view file, std::string_view text) {
  std::string_view line;
  uint32_t value = 0;
  if (!OnlyLine(text, &line)) return Malformed(file, 1, text);
  Scanner scanner(line);
  if (!scanner.Hex(&value) || !scanner.AtEnd()) return Malformed(file, 1, line);
  return value;
}

absl::StatusOr<int32_t> ParseDecimalFile(std::string_view file, std::string_view text) {
  std::string_view line;
  int32_t value = 0;
  if (!OnlyLine(text, &line)) return Malformed(file, 1, text);
  Scanner scanner(line);
  if (!scanner.Dec(&value) || !scanner.AtEnd()) return Malformed(file, 1, line);
  return value;
}

absl::StatusOr<uint64_t> ParseSchedstatRuns(std::string_view text) {
  std::string_view line;
  uint64_t on = 0;
  uint64_t waiting = 0;
  uint64_t runs = 0;
  if (!OnlyLine(text, &line)) return Malformed("schedstat", 1, text);
  Scanner scanner(line);
  if (!scanner.Dec(&on) || !scanner.Dec(&waiting) || !scanner.Dec(&runs) || !scanner.AtEnd())
    return Malformed("schedstat", 1, line);
  return runs;
}

absl::StatusOr<std::optional<SleepingCall>> ParseSyscall(std::string_view text) {
  std::string_view line;
  if (!OnlyLine(text, &line)) return Malformed("syscall", 1, text);
  if (line == "running" || line.substr(0, 3) == "-1 ") return std::nullopt;
  Scanner scanner(line);
  SleepingCall call;
  if (!scanner.Dec(&call.number) || call.number < 0) return Malformed("syscall", 1, line);
  for (uint64_t& argument : call.arguments) {
    if (!TakePointer(&scanner, &argument)) return Malformed("syscall", 1, line);
  }
  if (!TakePointer(&scanner, &call.stack_pointer) || !TakePointer(&scanner, &call.instruction_pointer) ||
      !scanner.AtEnd())
    return Malformed("syscall", 1, line);
  return call;
}

}  // namespace moult::proc
