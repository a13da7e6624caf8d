// SPDX-License-Identifier: Apache-2.0
#include "output.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace moult::ctl {

int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kUnimplemented:
      return 3;
    case absl::StatusCode::kNotFound:
      return 4;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return 5;
    case absl::StatusCode::kDataLoss:
      return 6;
    case absl::StatusCode::kResourceExhausted:
      return 7;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
      return 8;
    default:
      return 1;
  }
}

namespace {

// The length of the UTF-8 character that begins with `lead`; 0: none does.
size_t Utf8Length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  return lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
}

bool Continues(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

bool IsUtf8(const std::string& text) {
  try {
    (void)Json(text).dump();
    return true;
  } catch (const Json::type_error&) {
    return false;
  }
}

}  // namespace

std::string Printable(std::string text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F, in UTF-8, are control characters too.
    const bool high = c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (high) text[i + 1] = ' ';
    if (high || c < ' ' || c == 0x7f) text[i] = ' ';
  }
  return text;
}

int Fail(const absl::Status& status, bool json) {
  const Json error{{"error",
                    {{"code", absl::StatusCodeToString(status.code())},
                     {"exit", ExitCode(status)},
                     {"message", std::string(status.message())}}}};
  const std::string line =
      json ? Dump(error) : absl::StrCat("moultctl: ", Printable(std::string(status.message())));
  std::fprintf(stderr, "%s\n", line.c_str());
  return ExitCode(status);
}

int Print(const Json& result, const std::string& text, bool json) {
  std::fputs(json ? (Dump(result) + "\n").c_str() : text.c_str(), stdout);
  return 0;
}

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

void AddBytes(Json* json, const std::string& key, const std::string& bytes) {
  if (IsUtf8(bytes)) {
    (*json)[key] = bytes;
  } else {
    (*json)[key + "_base64"] = absl::Base64Escape(bytes);
  }
}

size_t UnfinishedUtf8(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const char c = text[text.size() - back];
    if (Continues(c)) continue;
    return Utf8Length(static_cast<unsigned char>(c)) > back ? back : 0;
  }
  return 0;
}

std::string Bytes(uint64_t bytes) {
  if (bytes < 10'000) return absl::StrCat(bytes, " B");
  if (bytes < (10u << 20)) return absl::StrFormat("%.1f KiB", static_cast<double>(bytes) / 1024);
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

std::string Millis(uint64_t us) { return absl::StrFormat("%.2f ms", static_cast<double>(us) / 1000); }

std::string Table(const std::vector<std::vector<std::string>>& rows, const std::set<size_t>& right) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string pad(widths[i] - row[i].size(), ' ');
      const bool last = i + 1 == row.size();
      absl::StrAppend(&text, right.contains(i) ? pad : "", row[i], right.contains(i) || last ? "" : pad,
                      last ? "\n" : "  ");
    }
  }
  return text;
}

const Json& Member(const Json& json, const char* key) {
  static const Json& none = *new Json();
  const auto found = json.is_object() ? json.find(key) : json.end();
  return found == json.end() ? none : *found;
}

std::string Text(const Json& json, const char* key) {
  const Json& member = Member(json, key);
  if (member.is_string()) return Printable(member.get<std::string>());
  return member.is_null() ? "" : Dump(member);
}

uint64_t Number(const Json& json, const char* key) {
  const Json& member = Member(json, key);
  return member.is_number_integer() ? member.get<uint64_t>() : 0;
}

std::string Phases(const Json& result) {
  std::string text;
  for (const Json& phase : Member(result, "phases")) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", Text(phase, "name"), " ", Millis(Number(phase, "us")));
  }
  return text;
}

}  // namespace moult::ctl
