// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "json_file.h"
#include "pager.h"

namespace moult::bench {
namespace {

constexpr char kMethod[] =
    "ratio: median over the rounds of how many times the peer's time ours is. one fault: median over 4096 "
    "pages touched "
    "in random order, no neighbours fetched, pool read and checksum included; the peer has the pages in a "
    "buffer and one "
    "thread that reads a message and copies. a walk: 7 neighbours fetched. offload, recall: all pages of a "
    "memfd that is "
    "empty before recall and its peer; offload also finds zeros, sums, write-protects and discards; "
    "memcpy to a mapping: one copy, to a shared mapping of a file in the pool's folder, whose pages come within "
    "that time, 256 at once (MADV_POPULATE_WRITE; the kernel makes them zeros first); "
    "scattered: "
    "page by page in random order";

}  // namespace

nlohmann::ordered_json ToJson(const PagerRow& row) {
  nlohmann::ordered_json json = {{"name", row.name},
                                 {"peer", row.peer},
                                 {"unit", row.unit},
                                 {"moult", ToJson(Summarize(row.ours))},
                                 {"bare", ToJson(Summarize(row.theirs))},
                                 {"ratio", row.Ratios().median},
                                 {"ratios", ToJson(row.Ratios())}};
  if (row.goal > 0) json["goal"] = {{"ratio", row.goal}, {"met", row.Ratios().median <= row.goal}};
  return json;
}

void PrintRow(const PagerRow& row) {
  std::printf("%-22s %8.2f %-4s  %-24s %8.2f   ratio %.2f (%.2f..%.2f)", row.name.c_str(), Summarize(row.ours).median, row.unit.c_str(), row.peer.c_str(),
              Summarize(row.theirs).median, row.Ratios().median, row.Ratios().min, row.Ratios().max);
  if (row.goal > 0) std::printf("  goal %.1f, %s", row.goal, row.Ratios().median <= row.goal ? "met" : "missed");
  std::printf("\n");
}

int RunPager(const PagerArguments& arguments) {
  std::printf("pager, medians of %d rounds, %d MiB moved, pool in %s\n", arguments.rounds, arguments.mib,
              arguments.pool.c_str());
  const absl::StatusOr<std::vector<PagerRow>> rows = MeasurePager(arguments);
  if (!rows.ok()) {
    std::fprintf(stderr, "moult-bench: pager: %s\n", std::string(rows.status().message()).c_str());
    return 1;
  }
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const PagerRow& row : *rows) {
    PrintRow(row);
    json.push_back(ToJson(row));
  }
  return WriteJson(arguments.json, {{"rounds", arguments.rounds},
                                    {"mib", arguments.mib},
                                    {"pool", arguments.pool},
                                    {"method", kMethod},
                                    {"rows", std::move(json)}});
}

}  // namespace moult::bench
