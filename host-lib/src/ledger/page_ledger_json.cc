// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "ledger/page_ledger.h"

namespace moult::host {
namespace {

using rpc::PageClass;
using rpc::PageKind;
using rpc::PageRun;

constexpr size_t kClasses = static_cast<size_t>(PageClass::MAX) + 1;
constexpr size_t kKinds = static_cast<size_t>(PageKind::MAX) + 1;

// By number, as the schema has them.
constexpr std::array<const char*, kClasses> kClassNames = {"user_private", "user_shared", "user_file", "template",
                                                           "system",       "page_cache",  "free",      "reserved"};
constexpr std::array<const char*, kKinds> kKindNames = {
    "none",   "anonymous",    "file_copy", "shmem",      "file",     "window",  "slab",   "page_table",
    "kernel", "kernel_image", "boot",      "swap_cache", "huge_tlb", "balloon", "broken", "hole"};
constexpr std::array kSegmentNames = {"none", "runtime", "init", "exec"};
constexpr std::array kFlagNames = {"dirty", "accessed", "locked", "writeback", "huge", "ksm", "shared", "sample", "offloaded"};

// What a page of this kind is called in a sentence.
constexpr std::array<const char*, kKinds> kKindTexts = {"a free page",
                                                        "anonymous memory",
                                                        "a private copy of a page",
                                                        "shared memory (tmpfs)",
                                                        "page cache",
                                                        "a template's page",
                                                        "slab memory of the kernel",
                                                        "a page table",
                                                        "memory of the kernel (allocated pages, vmalloc, stacks), or on its way to the free list",
                                                        "the kernel's text or data",
                                                        "memory that the kernel set aside at boot",
                                                        "anonymous memory that no process maps (swap cache)",
                                                        "a huge page (hugetlbfs)",
                                                        "memory that a balloon has given to the host",
                                                        "a page that failed in hardware",
                                                        "memory that the guest's kernel does not use (firmware, a hole)"};

size_t Number(PageClass page_class) { return static_cast<size_t>(page_class); }
size_t Number(PageKind kind) { return static_cast<size_t>(kind); }

std::string ProtText(uint8_t prot) {
  std::string text = "---";
  for (size_t i = 0; i < text.size(); ++i) {
    if ((prot >> i & 1) != 0) text[i] = "rwx"[i];
  }
  return text;
}

struct FunctionSums {
  std::array<uint64_t, kClasses> classes{};
};

}  // namespace

std::string PageLedger::AccessOf(uint64_t function) const {
  const auto told = std::find_if(report_.functions.begin(), report_.functions.end(),
                                 [function](const auto& one) { return one->id == function; });
  // What a newer agent may say is no more than a mark to us.
  const bool known = told != report_.functions.end() && (*told)->access <= rpc::AccessSource::MAX;
  return absl::AsciiStrToLower(rpc::EnumNameAccessSource(known ? (*told)->access : rpc::AccessSource::Mark));
}

Json PageLedger::Summary(const rpc::ListReplyT& functions) const {
  std::array<uint64_t, kClasses> classes{};
  std::array<uint64_t, kKinds> kinds{};
  std::map<uint64_t, FunctionSums> by_function;
  for (const auto& function : report_.functions) by_function[function->id];
  for (const PageRun& run : runs_) {
    classes[Number(run.page_class())] += run.length();
    kinds[Number(run.kind())] += run.length();
    if (run.function() != 0) by_function[run.function()].classes[Number(run.page_class())] += run.length();
  }
  Json json = {{"ram_bytes", ram_bytes_}};
  for (size_t i = 0; i < kClasses; ++i) {
    if (i != Number(PageClass::Template)) json["classes"][kClassNames[i]] = classes[i];
  }
  json["template_bytes"] = classes[Number(PageClass::Template)];
  for (size_t i = 0; i < kKinds; ++i) json["kinds"][kKindNames[i]] = kinds[i];
  json["functions"] = Json::array();
  for (const auto& [id, sums] : by_function) {
    Json function = {{"id", id}};
    for (const auto& info : functions.functions) {
      if (info->id != id) continue;
      function["name"] = info->spec->name;
      function["state"] = absl::AsciiStrToLower(rpc::EnumNameFunctionState(info->state));
    }
    const auto told = std::find_if(report_.functions.begin(), report_.functions.end(),
                                   [id = id](const auto& one) { return one->id == id; });
    function["access"] = AccessOf(id);
    function["exact"] = told != report_.functions.end() && (*told)->exact;
    for (const PageClass one : {PageClass::UserPrivate, PageClass::UserShared, PageClass::UserFile, PageClass::Template}) {
      function[kClassNames[Number(one)]] = sums.classes[Number(one)];
    }
    function["on_behalf"] = sums.classes[Number(PageClass::System)];
    json["functions"].push_back(std::move(function));
  }
  json["processes"] = Json::array();
  for (const auto& process : report_.processes) {
    json["processes"].push_back({{"pid", process->pid}, {"comm", process->comm}, {"function", process->function}});
  }
  json["files"] = report_.files;
  return json;
}

Json PageLedger::RunsJson() const {
  Json json = {{"run_fields", {"gpa", "length", "class", "kind", "function", "pid", "va", "file", "file_offset", "prot", "segment", "flags"}},
               {"class_names", kClassNames},
               {"kind_names", kKindNames},
               {"segment_names", kSegmentNames},
               {"flag_names", kFlagNames}};
  Json& runs = json["runs"] = Json::array();
  for (const PageRun& run : runs_) {
    runs.push_back({run.gpa(), run.length(), Number(run.page_class()), Number(run.kind()), run.function(), run.pid(), run.va(),
                    static_cast<int64_t>(run.file()) - 1, run.file_offset(), run.prot(), static_cast<int>(run.segment()),
                    static_cast<uint32_t>(run.flags())});
  }
  return json;
}

std::string Reason(const PageLedger& ledger, const PageRun& run, const std::string& name) {
  std::string text = kKindTexts[Number(run.kind())];
  const std::string* file = ledger.FileOf(run);
  if (file != nullptr) absl::StrAppend(&text, run.kind() == PageKind::FileCopy ? " of the file " : " of ", *file);
  const bool mapped = run.pid() != 0;
  if (const rpc::PagesProcessT* process = ledger.ProcessOf(run)) {
    absl::StrAppend(&text, file != nullptr ? ", mapped by process " : " of process ", run.pid(), " (", process->comm, ")");
  } else if (mapped) {
    absl::StrAppend(&text, ", mapped by process ", run.pid());
  }
  const std::string function = absl::StrCat("function ", run.function(), name.empty() ? "" : " (", name, name.empty() ? "" : ")");
  if (run.function() != 0 && run.page_class() == PageClass::System) {
    absl::StrAppend(&text, ", on behalf of ", function);
  } else if (run.function() != 0) {
    absl::StrAppend(&text, mapped ? " of " : ", which belongs to ", function);
  }
  const bool shared = (run.flags() & rpc::PageFlag::Shared) != rpc::PageFlag{};
  if (shared) absl::StrAppend(&text, "; others map it, too");
  if (run.page_class() == PageClass::PageCache && !mapped) text += " that no process maps";
  if ((run.flags() & rpc::PageFlag::Sample) == rpc::PageFlag{} && run.function() != 0) text += "; its function stood still";
  return text;
}

Json RunJson(const PageLedger& ledger, const PageRun& run, GuestPhys page, const std::string& name) {
  const uint64_t inside = static_cast<uint64_t>(page) - run.gpa();
  Json json = {{"run_gpa", run.gpa()},
               {"length", run.length()},
               {"class", kClassNames[Number(run.page_class())]},
               {"kind", kKindNames[Number(run.kind())]}};
  if (run.function() != 0) json["function"] = run.function();
  if (!name.empty()) json["function_name"] = name;
  if (run.pid() != 0) {
    json["pid"] = run.pid();
    if (const rpc::PagesProcessT* process = ledger.ProcessOf(run)) json["comm"] = process->comm;
    json["va"] = run.va() + inside;
    json["prot"] = ProtText(run.prot());
  }
  if (const std::string* file = ledger.FileOf(run)) {
    json["path"] = *file;
    json["file_offset"] = run.file_offset() + inside;
  }
  json["segment"] = kSegmentNames[static_cast<size_t>(run.segment())];
  json["flags"] = Json::array();
  for (size_t i = 0; i < kFlagNames.size(); ++i) {
    if ((static_cast<uint32_t>(run.flags()) >> i & 1) != 0) json["flags"].push_back(kFlagNames[i]);
  }
  json["reason"] = Reason(ledger, run, name);
  return json;
}

}  // namespace moult::host
