// SPDX-License-Identifier: Apache-2.0
#include "proc/text.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace moult::proc {
namespace {

constexpr size_t kQuotedBytes = 160;

bool IsOctal(char c) { return c >= '0' && c <= '7'; }

}  // namespace

bool SplitKey(std::string_view line, std::string_view* key, std::string_view* value) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return false;
  *key = line.substr(0, colon);
  *value = line.substr(colon + 1);
  const size_t start = value->find_first_not_of(" \t");
  value->remove_prefix(start == std::string_view::npos ? value->size() : start);
  return true;
}

std::string UnescapeOctal(std::string_view text, char only) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && text.size() - i >= 4 && text[i + 1] <= '3' && IsOctal(text[i + 1]) &&
        IsOctal(text[i + 2]) && IsOctal(text[i + 3])) {
      const int code = (text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0');
      const char byte = static_cast<char>(code);
      if (only == 0 || byte == only) {
        result.push_back(byte);
        i += 3;
        continue;
      }
    }
    result.push_back(text[i]);
  }
  return result;
}

std::string UnescapeComm(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size() && (text[i + 1] == 'n' || text[i + 1] == '\\')) {
      ++i;
      result.push_back(text[i] == 'n' ? '\n' : '\\');
    } else {
      result.push_back(text[i]);
    }
  }
  return result;
}

absl::Status Malformed(std::string_view file, int line_number, std::string_view line) {
  return absl::InternalError(absl::StrCat("parse ", ToAbsl(file), " line ", line_number, " \"",
                                          absl::CHexEscape(ToAbsl(line.substr(0, kQuotedBytes))),
                                          line.size() > kQuotedBytes ? "..." : "", "\": malformed"));
}

absl::Status Incomplete(std::string_view file, std::string_view what) {
  return absl::InternalError(absl::StrCat("parse ", ToAbsl(file), ": ", ToAbsl(what)));
}

}  // namespace moult::proc
