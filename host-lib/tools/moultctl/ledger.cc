// SPDX-License-Identifier: Apache-2.0
#include "ledger.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "output.h"

namespace moult::ctl {
namespace {

absl::Status Odd(absl::string_view what) { return absl::DataLossError(absl::StrCat("pages: ", what)); }

std::optional<uint64_t> AsWhole(const Json& json) {
  if (json.is_number_unsigned()) return json.get<uint64_t>();
  if (json.is_number_integer() && json.get<int64_t>() >= 0) return json.get<uint64_t>();
  return std::nullopt;
}

absl::StatusOr<std::vector<Amount>> Amounts(const Json& result, const char* key) {
  std::vector<Amount> amounts;
  const Json& member = Member(result, key);
  if (!member.is_object()) return Odd(absl::StrCat(key, " is no object"));
  for (const auto& [name, value] : member.items()) {
    const std::optional<uint64_t> bytes = AsWhole(value);
    if (!bytes) return Odd(absl::StrCat(key, ".", name, " is no whole number"));
    amounts.push_back({Printable(name), *bytes});
  }
  return amounts;
}

absl::StatusOr<std::vector<std::string>> Names(const Json& result, const char* key) {
  std::vector<std::string> names;
  const Json& member = Member(result, key);
  if (member.is_null()) return names;
  if (!member.is_array()) return Odd(absl::StrCat(key, " is no array"));
  for (const Json& name : member) {
    if (!name.is_string()) return Odd(absl::StrCat(key, " has what is no text"));
    names.push_back(Printable(name.get<std::string>()));
  }
  return names;
}

// Of another version's function some may be missing.
Segments SegmentsOf(const Json& function) {
  Segments segments;
  for (size_t i = 0; i < segments.size(); ++i) {
    const Json& one = Member(Member(function, "segments"), kSegments[i]);
    const std::optional<uint64_t> bytes = Whole(one, "bytes");
    if (bytes) segments[i] = {.bytes = *bytes, .offloaded = Whole(one, "offloaded_bytes").value_or(0)};
  }
  return segments;
}

absl::StatusOr<std::vector<FunctionPages>> Functions(const Json& result) {
  std::vector<FunctionPages> functions;
  const Json& member = Member(result, "functions");
  if (member.is_null()) return functions;
  if (!member.is_array()) return Odd("functions is no array");
  for (const Json& f : member) {
    const std::optional<uint64_t> id = Whole(f, "id");
    if (!id) return Odd("functions: one has no id");
    functions.push_back({.id = *id,
                         .name = Text(f, "name"),
                         .state = Text(f, "state"),
                         .exact = Member(f, "exact") == true,
                         .user_private = Whole(f, "user_private"),
                         .user_shared = Whole(f, "user_shared"),
                         .user_file = Whole(f, "user_file"),
                         .template_bytes = Whole(f, "template"),
                         .offloaded = Whole(f, "offloaded"),
                         .on_behalf = Whole(f, "on_behalf"),
                         .segments = SegmentsOf(f)});
  }
  return functions;
}

// The columns that we know, in the order of PageRun; `run_fields` says where each is in a row, so that one
// that is added later moves nothing.
enum Column {
  kGpa,
  kLength,
  kClass,
  kKind,
  kFunction,
  kPid,
  kVa,
  kFile,
  kFileOffset,
  kProt,
  kSegment,
  kFlags,
  kColumns
};
constexpr std::array<const char*, kColumns> kColumnNames{"gpa",         "length", "class",   "kind",
                                                         "function",    "pid",    "va",      "file",
                                                         "file_offset", "prot",   "segment", "flags"};

absl::StatusOr<std::array<size_t, kColumns>> Places(const Json& result) {
  MOULT_ASSIGN_OR_RETURN(const std::vector<std::string> fields, Names(result, "run_fields"));
  std::array<size_t, kColumns> places{};
  for (size_t i = 0; i < kColumns; ++i) {
    const auto found = std::find(fields.begin(), fields.end(), kColumnNames[i]);
    if (found == fields.end()) return Odd(absl::StrCat("run_fields lacks ", kColumnNames[i]));
    places[i] = static_cast<size_t>(found - fields.begin());
  }
  return places;
}

constexpr uint64_t kAddresses = uint64_t{1} << 52;  // no CPU has more

class RunParser {
 public:
  RunParser(const Ledger& ledger, const std::array<size_t, kColumns>& places)
      : ledger_(ledger), places_(places) {}

  absl::StatusOr<PageRun> Parse(const Json& row) {
    std::array<uint64_t, kColumns> values{};
    bool has_file = true;
    if (!row.is_array()) return Wrong("is no array");
    for (size_t i = 0; i < kColumns; ++i) {
      if (places_[i] >= row.size()) return Wrong(absl::StrCat("has no ", kColumnNames[i]));
      const Json& cell = row[places_[i]];
      if (i == kFile && cell == -1) {
        has_file = false;
        continue;
      }
      const std::optional<uint64_t> value = AsWhole(cell);
      if (!value) return Wrong(absl::StrCat("has a ", kColumnNames[i], " that is no whole number"));
      values[i] = *value;
    }
    if (values[kGpa] % kPageBytes != 0 || values[kLength] % kPageBytes != 0 || values[kLength] == 0)
      return Wrong("is not of whole pages");
    if (values[kGpa] > kAddresses || values[kLength] > kAddresses - values[kGpa])
      return Wrong("ends beyond all addresses");
    if (values[kClass] >= ledger_.class_names.size()) return Wrong("has a class without a name");
    if (values[kKind] >= ledger_.kind_names.size()) return Wrong("has a kind without a name");
    if (values[kSegment] >= ledger_.segment_names.size()) return Wrong("has a segment without a name");
    if (has_file && values[kFile] >= ledger_.files.size()) return Wrong("has a file without a name");
    const bool of_template = ledger_.class_names[values[kClass]] == kTemplateClass;
    if (templates_ && !of_template) return Wrong("is of RAM, and comes after templates");
    if (!std::exchange(templates_, of_template) && of_template) least_ = 0;
    if (values[kGpa] < least_) return Wrong("begins before the one before it ends");
    // Several may show a template's page.
    least_ = of_template ? values[kGpa] : values[kGpa] + values[kLength];
    ++number_;
    return PageRun{.gpa = values[kGpa],
                   .length = values[kLength],
                   .page_class = values[kClass],
                   .kind = values[kKind],
                   .function = values[kFunction],
                   .pid = values[kPid],
                   .va = values[kVa],
                   .file = has_file ? std::optional<size_t>(values[kFile]) : std::nullopt,
                   .file_offset = values[kFileOffset],
                   .prot = values[kProt],
                   .segment = values[kSegment],
                   .flags = values[kFlags]};
  }

 private:
  absl::Status Wrong(absl::string_view how) const { return Odd(absl::StrCat("run ", number_, " ", how)); }

  const Ledger& ledger_;
  const std::array<size_t, kColumns> places_;
  uint64_t least_ = 0;  // where the next may begin
  bool templates_ = false;
  size_t number_ = 0;
};

absl::Status ParseRuns(const Json& result, Ledger* ledger) {
  const Json& runs = Member(result, "runs");
  if (runs.is_null()) return absl::OkStatus();
  if (!runs.is_array()) return Odd("runs is no array");
  MOULT_ASSIGN_OR_RETURN(const auto places, Places(result));
  RunParser parser(*ledger, places);
  ledger->runs.reserve(runs.size());
  for (const Json& row : runs) {
    MOULT_ASSIGN_OR_RETURN(PageRun run, parser.Parse(row));
    ledger->runs.push_back(run);
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<uint64_t> Whole(const Json& json, const char* key) { return AsWhole(Member(json, key)); }

absl::StatusOr<Ledger> ParseLedger(const Json& result) {
  if (!result.is_object()) return Odd("the answer is no object");
  const std::optional<uint64_t> ram = Whole(result, "ram_bytes");
  if (!ram) return Odd("ram_bytes is no whole number");
  Ledger ledger;
  ledger.ram_bytes = *ram;
  ledger.template_bytes = Whole(result, "template_bytes").value_or(0);
  MOULT_ASSIGN_OR_RETURN(ledger.classes, Amounts(result, "classes"));
  if (result.contains("kinds")) {
    MOULT_ASSIGN_OR_RETURN(ledger.kinds, Amounts(result, "kinds"));
  }
  MOULT_ASSIGN_OR_RETURN(ledger.functions, Functions(result));
  MOULT_ASSIGN_OR_RETURN(ledger.files, Names(result, "files"));
  MOULT_ASSIGN_OR_RETURN(ledger.class_names, Names(result, "class_names"));
  MOULT_ASSIGN_OR_RETURN(ledger.kind_names, Names(result, "kind_names"));
  MOULT_ASSIGN_OR_RETURN(ledger.segment_names, Names(result, "segment_names"));
  MOULT_ASSIGN_OR_RETURN(ledger.flag_names, Names(result, "flag_names"));
  MOULT_RETURN_IF_ERROR(ParseRuns(result, &ledger));
  return ledger;
}

}  // namespace moult::ctl
