// SPDX-License-Identifier: Apache-2.0
#include "top.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report.h"

namespace moult::ctl {
namespace {

using ::testing::HasSubstr;

std::vector<Load> Loads(const char* text) {
  const absl::StatusOr<std::vector<Load>> loads = ParseLoads(Json::parse(text));
  EXPECT_TRUE(loads.ok()) << loads.status();
  return loads.ok() ? *loads : std::vector<Load>();
}

TEST(Loads, AreOfThoseThatLive) {
  const auto loads = Loads(R"({"functions":[
      {"id":1,"name":"a","state":"Ended","anon_bytes":5},
      {"id":2,"name":"b","state":"running","spec":{"name":"c"},"memory_bytes":9,"anon_bytes":5,"shmem_bytes":2,
       "faults":7,"recall_faults":1,"offloaded_bytes":3,"template_bytes":4},
      {"id":3,"name":"d","state":"frozen","shmem_bytes":6,"faults":-1,"offloaded_bytes":"much"}]})");
  ASSERT_EQ(loads.size(), 2u);
  EXPECT_EQ(loads[0].name, "c");
  EXPECT_EQ(loads[0].user_bytes, 7u);
  EXPECT_EQ(loads[0].resident_bytes, 6u) << "what is out is not in RAM";
  EXPECT_EQ(loads[0].offloaded_bytes, 3u);
  EXPECT_EQ(loads[0].template_bytes, std::nullopt) << "ps tells how large it is, not what is shared";
  EXPECT_EQ(loads[0].faults, 7u);
  EXPECT_EQ(loads[0].recalls, 1u);
  EXPECT_EQ(loads[1].user_bytes, 6u) << "one of both";
  EXPECT_EQ(loads[1].faults, std::nullopt);
  EXPECT_EQ(loads[1].offloaded_bytes, std::nullopt);
}

TEST(Loads, AreOfThoseThatHaveEnded_AsLongAsThePoolHasRoomForThem) {
  const auto loads = Loads(R"({"functions":[
      {"id":1,"name":"a","state":"ended","offloaded_bytes":0}, {"id":2,"name":"b","state":"ended","offloaded_bytes":4096}]})");
  ASSERT_EQ(loads.size(), 1u);
  EXPECT_EQ(loads[0].id, 2u);
  EXPECT_EQ(loads[0].offloaded_bytes, 4096u);
}

TEST(ResidentBytes, FallByWhatIsOut_UserBytesDoNot) {
  // The guest's kernel counts the same for it, before and after.
  const Json in = Json::parse(R"({"memory_bytes":40960,"anon_bytes":20480,"shmem_bytes":8192,"offloaded_bytes":0})");
  const Json out = Json::parse(R"({"memory_bytes":40960,"anon_bytes":20480,"shmem_bytes":8192,"offloaded_bytes":24576})");
  EXPECT_EQ(ResidentBytes(in), 40960u);
  EXPECT_EQ(ResidentBytes(out), 16384u);
  EXPECT_EQ(UserBytes(in), 28672u);
  EXPECT_EQ(UserBytes(out), 28672u);
}

TEST(ResidentBytes, AreNeverBelowZero) {
  EXPECT_EQ(ResidentBytes(Json::parse(R"({"memory_bytes":4096,"offloaded_bytes":8192})")), 0u) << "freed in the guest since";
  EXPECT_EQ(ResidentBytes(Json::parse(R"({"memory_bytes":0,"offloaded_bytes":8192})")), 0u) << "it has ended";
}

TEST(ResidentBytes, AreAllOfItsMemory_WithoutAPool) {
  EXPECT_EQ(ResidentBytes(Json::parse(R"({"memory_bytes":4096})")), 4096u);
  EXPECT_EQ(ResidentBytes(Json::parse(R"({"offloaded_bytes":4096})")), std::nullopt);
}

TEST(Loads, AreRefused_WhenThereIsNoList) {
  for (const char* text : {"{}", "[]", R"({"functions":7})"}) {
    const absl::Status status = ParseLoads(Json::parse(text)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("no list of functions"));
  }
}

TEST(Rate, IsOfTheTimeThatPassed) {
  EXPECT_EQ(Rate(100, 300, 4), 50.0);
  EXPECT_EQ(Rate(100, 100, 4), 0.0);
  EXPECT_EQ(Rate(0, ~uint64_t{0}, 1), 18446744073709551615.0);
}

TEST(Rate, IsUnknown_WhenTheCounterBeganAnewOrWasNotThere) {
  EXPECT_EQ(Rate(300, 100, 4), std::nullopt);
  EXPECT_EQ(Rate(std::nullopt, 100, 4), std::nullopt);
  EXPECT_EQ(Rate(100, std::nullopt, 4), std::nullopt);
  EXPECT_EQ(Rate(100, 300, 0), std::nullopt);
  EXPECT_EQ(Rate(100, 300, -1), std::nullopt);
}

TEST(WithRates, KnowsAFunctionByIdAndName) {
  const auto before = Loads(R"({"functions":[{"id":1,"name":"a","faults":10,"recall_faults":4},
      {"id":2,"name":"b","faults":10},{"id":3,"name":"c","faults":10}]})");
  const auto now = WithRates(before, Loads(R"({"functions":[{"id":1,"name":"a","faults":30,"recall_faults":0},
      {"id":2,"name":"other","faults":30},{"id":4,"name":"c","faults":30}]})"),
                             2);
  ASSERT_EQ(now.size(), 3u);
  EXPECT_EQ(now[0].fault_rate, 10.0);
  EXPECT_EQ(now[0].recall_rate, std::nullopt) << "it began anew";
  EXPECT_EQ(now[1].fault_rate, std::nullopt) << "another function with its id";
  EXPECT_EQ(now[2].fault_rate, std::nullopt);
  // From where a counter began anew it counts on.
  const auto later =
      WithRates(now, Loads(R"({"functions":[{"id":1,"name":"a","faults":30,"recall_faults":6}]})"), 2);
  EXPECT_EQ(later[0].recall_rate, 3.0);
}

TEST(WithRates, SortsByUserState_UnknownLast) {
  const auto loads =
      WithRates({}, Loads(R"({"functions":[{"id":9},{"id":3,"anon_bytes":5},{"id":1,"anon_bytes":0},
      {"id":4,"anon_bytes":7},{"id":2,"anon_bytes":5},{"id":8}]})"),
                1);
  std::vector<uint64_t> ids;
  for (const Load& load : loads) ids.push_back(load.id);
  EXPECT_EQ(ids, (std::vector<uint64_t>{4, 2, 3, 1, 8, 9}));
}

TEST(TopText, ShowsWhatIsKnown) {
  auto loads = Loads(
      R"({"functions":[{"id":10,"name":"thumb","state":"running","anon_bytes":12288,"memory_bytes":16384,
      "faults":5,"recall_faults":5,"offloaded_bytes":4096},{"id":2,"name":"web","state":"frozen"}]})");
  loads[0].fault_rate = 12.25;
  loads[0].segments[0] = {.bytes = 8192, .offloaded = 4096};
  loads[0].segments[2] = SegmentPages{};
  EXPECT_EQ(TopText(loads, 100),
            "ID  NAME   STATE        USER  RESIDENT  OFFLOADED  TEMPLATE  RUNTIME  INIT  EXEC  FAULTS/S  RECALLS/S\n"
            "10  thumb  running  12.0 KiB  12.0 KiB     4096 B         -   8192 B     -   0 B      12.2          -\n"
            " 2  web    frozen          -         -          -         -        -     -     -         -          -\n");
  EXPECT_THAT(TopText(loads, 2), ::testing::Not(HasSubstr("web"))) << "more than there is room for";
}

TEST(TopJson, HasNull_WhereNothingIsKnown) {
  auto loads = Loads(R"({"functions":[{"id":2,"name":"web","state":"frozen","anon_bytes":4096}]})");
  EXPECT_EQ(TopJson(loads),
            Json::parse(R"({"functions":[{"id":2,"name":"web","state":"frozen","user_bytes":4096,
      "resident_bytes":null,"offloaded_bytes":null,"template_bytes":null,"segments":{"runtime":null,"init":null,"exec":null},
      "faults_per_second":null,"recalls_per_second":null}]})"));
  loads[0].segments[1] = {.bytes = 8192, .offloaded = 4096};
  EXPECT_EQ(TopJson(loads)["functions"][0]["segments"]["init"], Json::parse(R"({"bytes":8192,"offloaded_bytes":4096})"));
}

TEST(AddPages, KnowsAFunctionByIdAndName) {
  const absl::StatusOr<Ledger> ledger = ParseLedger(Report());
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  auto loads = Loads(R"({"functions":[{"id":4,"name":"thumb","template_bytes":2},{"id":7,"name":"other","template_bytes":3},
      {"id":8,"name":"web","template_bytes":4}]})");
  AddPages(*ledger, &loads);
  EXPECT_EQ(loads[0].template_bytes, 8192u);
  ASSERT_TRUE(loads[0].segments[0].has_value());
  EXPECT_EQ(loads[0].segments[0]->bytes, 8192u);
  EXPECT_EQ(loads[0].segments[0]->offloaded, 4096u);
  EXPECT_EQ(loads[1].template_bytes, std::nullopt) << "another function with its id";
  EXPECT_EQ(loads[1].segments[0], std::nullopt);
  EXPECT_EQ(loads[2].template_bytes, std::nullopt);
}

}  // namespace
}  // namespace moult::ctl
