// SPDX-License-Identifier: Apache-2.0
#include "page_legend.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "ledger_view.h"
#include "output.h"

namespace moult::ctl {
namespace {

// A guest says how many functions it has, and what they are called.
constexpr size_t kMaxLines = 48;
constexpr size_t kMaxName = 64;

std::string Cut(std::string text) {
  if (text.size() <= kMaxName) return text;
  text.resize(kMaxName);
  text.resize(text.size() - UnfinishedUtf8(text));
  return text + "...";
}

std::string NameOf(const LegendEntry& entry) {
  std::string name = Cut(entry.page_class);
  if (entry.function != 0) absl::StrAppend(&name, " of ", entry.function, " ", Cut(entry.function_name));
  return entry.offloaded ? name + ", offloaded" : name;
}

}  // namespace

std::vector<LegendLine> LegendLines(const Picture& picture) {
  const auto& legend = picture.legend;
  const size_t shown = legend.size() <= kMaxLines ? legend.size() : kMaxLines - 1;
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](const std::string& name, const std::string& page_class, uint64_t pages) {
    // Templates are no part of RAM, so they have no share of it.
    rows.push_back({name, Bytes(pages * kPageBytes),
                    page_class == "template" ? "" : Percent(pages, picture.ram_pages) + " %"});
  };
  for (size_t i = 0; i < shown; ++i) add(NameOf(legend[i]), legend[i].page_class, legend[i].pages);
  uint64_t rest = 0;
  for (size_t i = shown; i < legend.size(); ++i) rest += legend[i].pages;
  if (shown < legend.size()) add(absl::StrCat("and ", legend.size() - shown, " more"), "template", rest);
  const std::string table = Table(rows, {1, 2});
  std::vector<LegendLine> lines;
  for (const absl::string_view text : absl::StrSplit(table, '\n', absl::SkipEmpty())) {
    const size_t i = lines.size();
    lines.push_back({i < shown ? legend[i].colour : Colour{255, 255, 255}, i < shown ? legend[i].letter : ' ',
                     std::string(text)});
  }
  return lines;
}

std::string Caption(const Picture& picture, const char* cell) {
  const uint64_t pages = picture.pages_per_cell;
  return absl::StrCat(Bytes(picture.ram_pages * kPageBytes), " of guest RAM; a ", cell, " is ", pages,
                      pages == 1 ? " page (" : " pages (", Bytes(pages * kPageBytes), ")");
}

std::string TemplateCaption(const Picture& picture) {
  return absl::StrCat(Bytes(picture.template_pages * kPageBytes), " of templates, beside it");
}

}  // namespace moult::ctl
