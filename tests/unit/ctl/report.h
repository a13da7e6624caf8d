// SPDX-License-Identifier: Apache-2.0
//
// Answers of `pages` for the tests.
#ifndef MOULT_TESTS_UNIT_CTL_REPORT_H_
#define MOULT_TESTS_UNIT_CTL_REPORT_H_

#include <string>
#include <vector>

#include "ledger.h"

namespace moult::ctl {

// Indices into the report's class_names.
enum ReportClass { kUserPrivate, kUserShared, kUserFile, kSystem, kPageCache, kFree, kReserved, kTemplate };

// A whole report of 16 pages of RAM without runs: function 4 "thumb" has 3 pages, function 7 "web" has one.
inline Json Report() {
  return Json::parse(R"({"op":"pages","ok":true,"total_us":1,"phases":[],"ram_bytes":65536,
    "classes":{"user_private":12288,"user_shared":4096,"user_file":0,"system":8192,"page_cache":8192,"free":28672,
               "reserved":4096},
    "template_bytes":8192,
    "kinds":{"slab":8192,"anonymous":12288,"balloon":0},
    "functions":[{"id":4,"name":"thumb","state":"frozen","exact":true,"user_private":12288,"user_shared":0,
                  "user_file":0,"template":8192,"offloaded":4096,"on_behalf":16384,
                  "segments":{"runtime":{"bytes":8192,"offloaded_bytes":4096},"init":{"bytes":4096,"offloaded_bytes":0},
                              "exec":{"bytes":0,"offloaded_bytes":0}}},
                 {"id":7,"name":"web","state":"running","exact":false,"user_shared":4096}],
    "processes":[{"pid":312,"comm":"python3","function":4}],
    "files":["/usr/bin/python3.11"],
    "run_fields":["gpa","length","class","kind","function","pid","va","file","file_offset","prot","segment","flags"],
    "class_names":["user_private","user_shared","user_file","system","page_cache","free","reserved","template"],
    "kind_names":["none","anonymous","file"],
    "segment_names":["none","runtime","init","exec"],
    "flag_names":["dirty","accessed","locked","writeback","huge","ksm","shared","sample","offloaded"]})");
}

inline Json RunRow(uint64_t gpa, uint64_t pages, ReportClass page_class, uint64_t function = 0,
                   uint64_t flags = 0) {
  return Json::array({gpa, pages * kPageBytes, int{page_class}, 1, function, 0, 0, -1, 0, 3, 0, flags});
}

// `pages` of each class in turn, from 0 on without holes.
inline Json ReportOf(const std::vector<std::pair<ReportClass, uint64_t>>& parts) {
  Json report = Report();
  report["runs"] = Json::array();
  uint64_t gpa = 0;
  for (const auto& [page_class, pages] : parts) {
    report["runs"].push_back(
        RunRow(gpa, pages, page_class, page_class <= kUserFile || page_class == kTemplate ? 4 : 0));
    gpa += pages * kPageBytes;
  }
  return report;
}

}  // namespace moult::ctl

#endif  // MOULT_TESTS_UNIT_CTL_REPORT_H_
