// SPDX-License-Identifier: Apache-2.0
#include "proc/mountinfo.h"

#include "proc/text.h"

namespace moult::proc {
namespace {

bool PathWord(Scanner& scanner, std::string* result) {
  std::string_view word;
  if (!scanner.Word(&word)) return false;
  *result = UnescapeOctal(word);
  return true;
}

// "shared:1", "master:2", "propagate_from:3", "unbindable"; others are passed over.
bool ParseOptionalField(std::string_view field, MountInfo& mount) {
  Scanner scanner(field);
  if (scanner.Literal("shared:")) return scanner.Dec(&mount.shared) && scanner.AtEnd();
  if (scanner.Literal("master:")) return scanner.Dec(&mount.master) && scanner.AtEnd();
  if (scanner.Literal("propagate_from:")) return scanner.Dec(&mount.propagate_from) && scanner.AtEnd();
  if (field == "unbindable") mount.unbindable = true;
  return true;
}

// One field, cut at single spaces: the source of a mount may be the empty string.
std::string Field(Scanner& scanner) {
  const std::string_view field = scanner.rest().substr(0, scanner.rest().find(' '));
  std::string result = UnescapeOctal(field);
  scanner.Literal(field);
  scanner.Literal(' ');
  return result;
}

bool ParseLine(std::string_view line, MountInfo& mount) {
  Scanner scanner(line);
  if (!scanner.Dec(&mount.id) || !scanner.Dec(&mount.parent_id) || !scanner.Dec(&mount.dev_major) ||
      !scanner.Literal(':') || !scanner.Dec(&mount.dev_minor) || !PathWord(scanner, &mount.root) ||
      !PathWord(scanner, &mount.mount_point) || !PathWord(scanner, &mount.options)) {
    return false;
  }
  for (std::string_view field; scanner.Word(&field);) {
    if (field == "-") {
      if (!scanner.Literal(' ')) return false;
      mount.fs_type = Field(scanner);
      mount.source = Field(scanner);
      mount.super_options = Field(scanner);
      return !mount.fs_type.empty() && !mount.super_options.empty();
    }
    if (!ParseOptionalField(field, mount)) return false;
  }
  return false;
}

}  // namespace

absl::StatusOr<std::vector<MountInfo>> ParseMountInfo(std::string_view text) {
  std::vector<MountInfo> mounts;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    if (!ParseLine(line, mounts.emplace_back())) return Malformed("mountinfo", lines.number(), line);
  }
  return mounts;
}

}  // namespace moult::proc
