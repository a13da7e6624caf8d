// SPDX-License-Identifier: Apache-2.0
#include "proc/cpuinfo.h"

#include <algorithm>

#include "proc/text.h"

namespace moult::proc {
namespace {

bool Number(std::string_view text, int* value) {
  Scanner scanner(text);
  return scanner.Dec(value) && scanner.AtEnd();
}

bool ParseProperty(std::string_view key, std::string_view value, CpuInfo& cpu) {
  // A processor that does not tell its stepping has "unknown" there.
  if (key == "stepping" && value == "unknown") return true;
  if (key == "cpu family") return Number(value, &cpu.family);
  if (key == "model") return Number(value, &cpu.model);
  if (key == "stepping") return Number(value, &cpu.stepping);
  if (key == "vendor_id") cpu.vendor_id = value;
  if (key == "model name") cpu.model_name = value;
  if (key == "flags") {
    Scanner scanner(value);
    for (std::string_view flag; scanner.Word(&flag);) cpu.flags.emplace_back(flag);
  }
  return true;
}

}  // namespace

bool CpuInfo::Has(std::string_view flag) const {
  return std::find(flags.begin(), flags.end(), flag) != flags.end();
}

absl::StatusOr<CpuInfo> ParseCpuInfo(std::string_view text) {
  CpuInfo cpu;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line) && !line.empty();) {
    std::string_view key;
    std::string_view value;
    if (!SplitKey(line, &key, &value)) return Malformed("cpuinfo", lines.number(), line);
    key = key.substr(0, key.find_last_not_of(" \t") + 1);
    if (!ParseProperty(key, value, cpu)) return Malformed("cpuinfo", lines.number(), line);
  }
  if (cpu.flags.empty()) return Incomplete("cpuinfo", "no flags line");
  return cpu;
}

}  // namespace moult::proc
