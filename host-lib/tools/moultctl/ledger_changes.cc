// SPDX-License-Identifier: Apache-2.0
#include "ledger_changes.h"

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "ledger/compare_runs.h"
#include "ledger_view.h"
#include "moult/base/status.h"
#include "output.h"
#include "read_file.h"

namespace moult::ctl {
namespace {

using Rows = std::vector<std::vector<std::string>>;

absl::Span<const PageRun> Ram(const Ledger& ledger) {
  const auto templates = std::find_if(ledger.runs.begin(), ledger.runs.end(), [&](const PageRun& run) {
    return ledger.class_names[run.page_class] == kTemplateClass;
  });
  return absl::MakeConstSpan(ledger.runs).first(static_cast<size_t>(templates - ledger.runs.begin()));
}

// The number that stands for each name in `now`; another, which none has there, for what it does not know.
// The two may be of different versions.
std::vector<uint64_t> Numbers(const std::vector<std::string>& names, const std::vector<std::string>& now) {
  std::vector<uint64_t> numbers;
  for (const std::string& name : names) {
    const auto found = std::find(now.begin(), now.end(), name);
    numbers.push_back(found != now.end() ? static_cast<uint64_t>(found - now.begin())
                                         : now.size() + numbers.size());
  }
  return numbers;
}

host::ComparedRun Compared(const PageRun& run, uint64_t page_class, uint64_t kind) {
  return {.gpa = run.gpa,
          .length = run.length,
          .page_class = page_class,
          .kind = kind,
          .function = run.function,
          .pid = run.pid,
          .va = run.va};
}

const FunctionPages* Find(const Ledger& ledger, uint64_t id) {
  const auto found = std::find_if(ledger.functions.begin(), ledger.functions.end(),
                                  [id](const FunctionPages& f) { return f.id == id; });
  return found != ledger.functions.end() ? &*found : nullptr;
}

std::optional<uint64_t> ClassBytes(const Ledger& ledger, const std::string& name) {
  const auto found = std::find_if(ledger.classes.begin(), ledger.classes.end(),
                                  [&](const Amount& a) { return a.name == name; });
  return found != ledger.classes.end() ? std::optional(found->bytes) : std::nullopt;
}

// In RAM or out, without what it shares with a template.
std::optional<uint64_t> OwnBytes(const FunctionPages* function) {
  if (function == nullptr) return std::nullopt;
  return function->user_private.value_or(0) + function->user_shared.value_or(0) +
         function->user_file.value_or(0);
}
std::optional<uint64_t> OutBytes(const FunctionPages* function) {
  return function != nullptr ? function->offloaded : std::nullopt;
}

// "+12.0 KiB".
std::string Difference(const std::optional<uint64_t>& before, const std::optional<uint64_t>& now) {
  const uint64_t a = before.value_or(0), b = now.value_or(0);
  return a == b ? "0 B" : absl::StrCat(b > a ? "+" : "-", Bytes(b > a ? b - a : a - b));
}

std::string Owner(const Ledger& ledger, uint64_t id) {
  const FunctionPages* function = Find(ledger, id);
  return absl::StrCat(id, function == nullptr || function->name.empty() ? "" : " ",
                      function != nullptr ? function->name : "");
}

// "user_private (anonymous) of 4 thumb".
std::string Words(const Ledger& ledger, const PageRun* run) {
  if (run == nullptr) return "not told of";
  std::string words = ledger.class_names[run->page_class];
  const std::string& kind = ledger.kind_names[run->kind];
  if (kind != "none" && kind != words) absl::StrAppend(&words, " (", kind, ")");
  if (run->function != 0) absl::StrAppend(&words, " of ", Owner(ledger, run->function));
  return words;
}

uint64_t AddressAt(const PageRun& run, uint64_t gpa) { return run.va == 0 ? 0 : run.va + (gpa - run.gpa); }

std::string RunWords(const Ledger& ledger, const PageRun* run, uint64_t gpa) {
  std::string words = Words(ledger, run);
  if (run != nullptr && run->pid != 0)
    absl::StrAppend(&words, absl::StrFormat(", at 0x%x of process %d", AddressAt(*run, gpa), run->pid));
  return words;
}

Json WhatJson(const Ledger& ledger, const PageRun* run) {
  if (run == nullptr) return nullptr;
  const FunctionPages* function = Find(ledger, run->function);
  return {{"class", ledger.class_names[run->page_class]},
          {"kind", ledger.kind_names[run->kind]},
          {"function", run->function},
          {"function_name", function != nullptr ? function->name : ""}};
}

Json RunJson(const Ledger& ledger, const PageRun* run, uint64_t gpa) {
  Json json = WhatJson(ledger, run);
  if (run == nullptr) return json;
  json["pid"] = run->pid;
  json["va"] = AddressAt(*run, gpa);
  return json;
}

absl::StatusOr<Ledger> ParseReport(const std::string& text) {
  if (text.empty()) return absl::InvalidArgumentError("is empty");
  MOULT_ASSIGN_OR_RETURN(const Json report, control::ParseJson(text));
  MOULT_ASSIGN_OR_RETURN(Ledger ledger, ParseLedger(report));
  if (ledger.runs.empty()) return absl::InvalidArgumentError("has no runs");
  return ledger;
}

}  // namespace

LedgerChanges::LedgerChanges(const Ledger& before, const Ledger& now, uint64_t function)
    : before_(before), now_(now), function_(function) {
  const std::vector<uint64_t> classes = Numbers(before.class_names, now.class_names);
  const std::vector<uint64_t> kinds = Numbers(before.kind_names, now.kind_names);
  host::CompareRuns(
      Ram(before), Ram(now),
      [&](const PageRun& run) { return Compared(run, classes[run.page_class], kinds[run.kind]); },
      [](const PageRun& run) { return Compared(run, run.page_class, run.kind); },
      [&](uint64_t gpa, uint64_t length, const PageRun* was, const PageRun* is) {
        const auto counts = [function](const PageRun* run) {
          return run != nullptr && run->function == function;
        };
        if (function == 0 || counts(was) || counts(is))
          changes_.push_back({.gpa = gpa, .length = length, .before = was, .now = is});
      });
}

struct LedgerChanges::Turn {
  uint64_t bytes = 0;
  const PageRun* before = nullptr;  // one that was so
  const PageRun* now = nullptr;
};

// The largest first.
std::vector<LedgerChanges::Turn> LedgerChanges::Turns() const {
  const auto key = [](const PageRun* run) {
    return run == nullptr ? std::tuple(false, size_t{0}, size_t{0}, uint64_t{0})
                          : std::tuple(true, run->page_class, run->kind, run->function);
  };
  std::map<std::pair<decltype(key(nullptr)), decltype(key(nullptr))>, Turn> sums;
  for (const LedgerChange& change : changes_) {
    Turn& turn = sums.try_emplace({key(change.before), key(change.now)},
                                  Turn{.bytes = 0, .before = change.before, .now = change.now})
                     .first->second;
    turn.bytes += change.length;
  }
  std::vector<Turn> turns;
  for (const auto& [what, turn] : sums) turns.push_back(turn);
  std::stable_sort(turns.begin(), turns.end(),
                   [](const Turn& a, const Turn& b) { return a.bytes > b.bytes; });
  return turns;
}

std::set<uint64_t> LedgerChanges::functions() const {
  std::set<uint64_t> ids;
  for (const Ledger* ledger : {&before_, &now_}) {
    for (const FunctionPages& f : ledger->functions) {
      if (function_ == 0 || f.id == function_) ids.insert(f.id);
    }
  }
  return ids;
}

std::string LedgerChanges::Text(bool runs) const {
  uint64_t changed = 0;
  for (const LedgerChange& change : changes_) changed += change.length;
  std::string text = absl::StrCat(
      Bytes(changed), " of ", Bytes(now_.ram_bytes), " of guest RAM ",
      function_ != 0 ? absl::StrCat("have changed and were or are of function ", function_) : "have changed",
      "\n");
  if (function_ == 0) {
    Rows rows{{"CLASS", "BEFORE", "NOW", "CHANGE"}};
    for (const Amount& a : now_.classes) {
      const auto before = ClassBytes(before_, a.name);
      rows.push_back({a.name, BytesOrNone(before), Bytes(a.bytes), Difference(before, a.bytes)});
    }
    absl::StrAppend(&text, "\n", Table(rows, {1, 2, 3}));
  }
  const std::set<uint64_t> ids = functions();
  if (!ids.empty()) {
    Rows rows{{"FUNCTION", "NAME", "BEFORE", "NOW", "CHANGE", "OUT BEFORE", "OUT NOW"}};
    for (const uint64_t id : ids) {
      const FunctionPages* was = Find(before_, id);
      const FunctionPages* is = Find(now_, id);
      rows.push_back({absl::StrCat(id), is != nullptr ? is->name : was->name, BytesOrNone(OwnBytes(was)),
                      BytesOrNone(OwnBytes(is)), Difference(OwnBytes(was), OwnBytes(is)),
                      BytesOrNone(OutBytes(was)), BytesOrNone(OutBytes(is))});
    }
    absl::StrAppend(&text, "\n", Table(rows, {0, 2, 3, 4, 5, 6}),
                    "Private, shared and file pages, in RAM or out: a page that goes out or comes back has "
                    "not changed.\n");
  }
  if (changes_.empty()) return text;
  Rows turns{{"BYTES", "WAS", "IS"}};
  bool moved = false;
  for (const Turn& turn : Turns()) {
    turns.push_back({Bytes(turn.bytes), Words(before_, turn.before), Words(now_, turn.now)});
    moved = moved || turns.back()[1] == turns.back()[2];
  }
  absl::StrAppend(&text, "\n", Table(turns, {0}),
                  moved ? "WAS and IS the same: at another address, or of another process.\n" : "");
  if (!runs) return text;
  Rows rows{{"GPA", "LENGTH", "WAS", "IS"}};
  for (const LedgerChange& change : changes_) {
    rows.push_back({absl::StrFormat("0x%x", change.gpa), absl::StrFormat("0x%x", change.length),
                    RunWords(before_, change.before, change.gpa), RunWords(now_, change.now, change.gpa)});
  }
  return absl::StrCat(text, "\n", Table(rows, {0, 1}));
}

Json LedgerChanges::ToJson(bool runs) const {
  Json json{{"ram_bytes", now_.ram_bytes}, {"functions", Json::array()}, {"changes", Json::array()}};
  uint64_t changed = 0;
  for (const Turn& turn : Turns()) {
    changed += turn.bytes;
    json["changes"].push_back({{"bytes", turn.bytes},
                               {"before", WhatJson(before_, turn.before)},
                               {"now", WhatJson(now_, turn.now)}});
  }
  json["changed_bytes"] = changed;
  for (const Amount& a : now_.classes) {
    if (function_ == 0)
      json["classes"][a.name] = {{"before_bytes", OrNull(ClassBytes(before_, a.name))}, {"bytes", a.bytes}};
  }
  for (const uint64_t id : functions()) {
    const FunctionPages* was = Find(before_, id);
    const FunctionPages* is = Find(now_, id);
    json["functions"].push_back({{"id", id},
                                 {"name", is != nullptr ? is->name : was->name},
                                 {"before_bytes", OrNull(OwnBytes(was))},
                                 {"bytes", OrNull(OwnBytes(is))},
                                 {"before_offloaded_bytes", OrNull(OutBytes(was))},
                                 {"offloaded_bytes", OrNull(OutBytes(is))}});
  }
  if (!runs) return json;
  Json& list = json["runs"] = Json::array();
  for (const LedgerChange& change : changes_) {
    list.push_back({{"gpa", change.gpa},
                    {"length", change.length},
                    {"before", RunJson(before_, change.before, change.gpa)},
                    {"now", RunJson(now_, change.now, change.gpa)}});
  }
  return json;
}

absl::StatusOr<Ledger> ReadReport(const std::string& path) {
  const std::string what = absl::StrCat("--against ", path);
  MOULT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, what));
  absl::StatusOr<Ledger> ledger = ParseReport(text);
  if (ledger.ok()) return ledger;
  return absl::InvalidArgumentError(
      absl::StrCat(what, ": no report of pages: ", absl::StripPrefix(ledger.status().message(), "pages: "),
                   "; store one by moultctl pages --json --runs >FILE"));
}

}  // namespace moult::ctl
