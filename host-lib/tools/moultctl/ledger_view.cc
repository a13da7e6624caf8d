// SPDX-License-Identifier: Apache-2.0
#include "ledger_view.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "output.h"

namespace moult::ctl {
namespace {

constexpr size_t kBarWidth = 40;
using Rows = std::vector<std::vector<std::string>>;

std::string Hex(uint64_t number) { return absl::StrFormat("0x%x", number); }
std::string HexOrNone(uint64_t number) { return number == 0 ? "-" : Hex(number); }
std::string NumberOrNone(uint64_t number) { return number == 0 ? "-" : absl::StrCat(number); }

double Fraction(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : std::min(1.0, static_cast<double>(part) / static_cast<double>(whole));
}

std::string AmountTable(const char* title, const std::vector<Amount>& amounts, uint64_t whole) {
  Rows rows{{title, "BYTES", "%"}};
  for (const Amount& a : amounts)
    rows.push_back({a.name, Bytes(a.bytes), Percent(a.bytes, whole), Bar(a.bytes, whole, kBarWidth)});
  return Table(rows, {1, 2});
}

std::string FunctionTable(const Ledger& ledger) {
  Rows rows{
      {"FUNCTION", "NAME", "STATE", "PRIVATE", "SHARED", "FILE", "TEMPLATE", "OFFLOADED", "CAUSED", "EXACT"}};
  for (const FunctionPages& f : ledger.functions) {
    rows.push_back({absl::StrCat(f.id), f.name, f.state, BytesOrNone(f.user_private),
                    BytesOrNone(f.user_shared), BytesOrNone(f.user_file), BytesOrNone(f.template_bytes),
                    BytesOrNone(f.offloaded), BytesOrNone(f.on_behalf), f.exact ? "yes" : "no"});
  }
  return Table(rows, {0, 3, 4, 5, 6, 7, 8});
}

bool HasSegments(const FunctionPages& function) {
  return std::any_of(function.segments.begin(), function.segments.end(), [](const auto& one) { return one.has_value(); });
}

std::string SegmentTable(const Ledger& ledger) {
  Rows rows{{"FUNCTION", "NAME"}};
  for (const char* segment : kSegments) {
    rows[0].push_back(absl::AsciiStrToUpper(segment));
    rows[0].push_back("OUT");
  }
  for (const FunctionPages& f : ledger.functions) {
    std::vector<std::string>& row = rows.emplace_back(std::vector<std::string>{absl::StrCat(f.id), f.name});
    for (const auto& segment : f.segments) {
      row.push_back(segment ? Bytes(segment->bytes) : "-");
      row.push_back(segment ? Bytes(segment->offloaded) : "-");
    }
  }
  return Table(rows, {0, 2, 3, 4, 5, 6, 7});
}

std::string FlagWords(const Ledger& ledger, uint64_t flags) {
  std::vector<std::string> words;
  for (size_t i = 0; i < 64; ++i) {
    if ((flags >> i & 1) == 0) continue;
    words.push_back(i < ledger.flag_names.size() ? ledger.flag_names[i] : absl::StrCat("bit", i));
  }
  return words.empty() ? "-" : absl::StrJoin(words, ",");
}

std::string Place(const std::string& path, uint64_t offset) { return absl::StrCat(path, "+", Hex(offset)); }

}  // namespace

std::string Protection(uint64_t prot) {
  return {(prot & 1) != 0 ? 'r' : '-', (prot & 2) != 0 ? 'w' : '-', (prot & 4) != 0 ? 'x' : '-'};
}

std::string BytesOrNone(const std::optional<uint64_t>& bytes) { return bytes ? Bytes(*bytes) : "-"; }

std::string Percent(uint64_t part, uint64_t whole) {
  return absl::StrFormat("%.1f",
                         100 * static_cast<double>(part) / static_cast<double>(std::max<uint64_t>(whole, 1)));
}

std::string Bar(uint64_t part, uint64_t whole, size_t width) {
  const auto signs = static_cast<size_t>(Fraction(part, whole) * static_cast<double>(width) + 0.5);
  return std::string(part > 0 && whole > 0 ? std::max<size_t>(signs, 1) : signs, '#');
}

std::string PagesText(const Ledger& ledger, bool whole) {
  std::string text = absl::StrCat(Bytes(ledger.ram_bytes), " of guest RAM");
  if (ledger.template_bytes > 0)
    absl::StrAppend(&text, "; beside it functions show ", Bytes(ledger.template_bytes), " of templates");
  absl::StrAppend(&text, "\n\n", AmountTable("CLASS", ledger.classes, ledger.ram_bytes));
  // In floating point, since a sum of what was told may overflow.
  double sum = 0;
  for (const Amount& a : ledger.classes) sum += static_cast<double>(a.bytes);
  if (whole && sum != static_cast<double>(ledger.ram_bytes))
    absl::StrAppend(&text, "The classes do not sum up to the RAM: ",
                    absl::StrFormat("%.0f of %d bytes\n", sum, ledger.ram_bytes));

  std::vector<Amount> kinds = ledger.kinds;
  std::erase_if(kinds, [](const Amount& a) { return a.bytes == 0; });
  std::stable_sort(kinds.begin(), kinds.end(),
                   [](const Amount& a, const Amount& b) { return a.bytes > b.bytes; });
  if (!kinds.empty()) absl::StrAppend(&text, "\n", AmountTable("KIND", kinds, ledger.ram_bytes));

  if (ledger.functions.empty()) return absl::StrCat(text, "\nno functions\n");
  absl::StrAppend(&text, "\n", FunctionTable(ledger),
                  "CAUSED: page tables, kernel stacks and slab that the function causes.\n");
  if (std::any_of(ledger.functions.begin(), ledger.functions.end(), [](const auto& f) { return !f.exact; }))
    absl::StrAppend(&text, "EXACT no: it ran on while it was looked at; freeze it for numbers that hold.\n");
  if (std::any_of(ledger.functions.begin(), ledger.functions.end(), HasSegments))
    absl::StrAppend(&text, "\n", SegmentTable(ledger),
                    "Private and shared pages that came before the runtime was up, before the function was ready, and later;\n"
                    "OUT: of these, what is offloaded.\n");
  return text;
}

std::string RunsText(const Ledger& ledger) {
  Rows rows{{"GPA", "LENGTH", "CLASS", "KIND", "FUNCTION", "PID", "VA", "PROT", "SEGMENT", "FLAGS", "FILE"}};
  for (const PageRun& run : ledger.runs) {
    rows.push_back({Hex(run.gpa), Hex(run.length), ledger.class_names[run.page_class],
                    ledger.kind_names[run.kind], NumberOrNone(run.function), NumberOrNone(run.pid),
                    HexOrNone(run.va), Protection(run.prot), ledger.segment_names[run.segment],
                    FlagWords(ledger, run.flags),
                    run.file ? Place(ledger.files[*run.file], run.file_offset) : "-"});
  }
  return Table(rows, {0, 1, 4, 5, 6});
}

std::string WhyText(const Json& result) {
  const std::string reason = Text(result, "reason");
  Rows rows;
  const auto add = [&rows](const char* name, const std::string& value) {
    if (!value.empty()) rows.push_back({name, value});
  };
  const auto address = [&](const char* name, const char* key) {
    if (const auto number = Whole(result, key); number && *number != 0) add(name, Hex(*number));
  };
  // Zero is a guest-physical address like any other.
  if (const auto gpa = Whole(result, "gpa")) add("guest-physical", Hex(*gpa));
  address("host-virtual", "hva");
  if (const auto gpa = Whole(result, "run_gpa"), length = Whole(result, "length"); gpa && length)
    add("part of", absl::StrCat(Bytes(*length), " from ", Hex(*gpa)));
  add("class", Text(result, "class"));
  add("kind", Text(result, "kind"));
  if (const uint64_t function = Number(result, "function"); function != 0)
    add("function", absl::StrCat(function, " ", Text(result, "function_name")));
  if (const uint64_t pid = Number(result, "pid"); pid != 0)
    add("process", absl::StrCat(pid, " ", Text(result, "comm")));
  address("address there", "va");
  if (!Text(result, "path").empty()) add("file", Place(Text(result, "path"), Number(result, "file_offset")));
  add("protection", Text(result, "prot"));
  if (const std::string segment = Text(result, "segment"); segment != "none") add("segment", segment);
  std::vector<std::string> flags;
  for (const Json& flag : Member(result, "flags")) {
    if (flag.is_string()) flags.push_back(Printable(flag.get<std::string>()));
  }
  add("flags", absl::StrJoin(flags, ", "));
  return absl::StrCat(reason.empty() ? "" : reason + "\n\n", Table(rows));
}

}  // namespace moult::ctl
