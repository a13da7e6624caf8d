// SPDX-License-Identifier: Apache-2.0
#include "control/message.h"

#include <gtest/gtest.h>

namespace moult::control {
namespace {

TEST(ParseRequest, TakesIdsOfBothKinds) {
  EXPECT_EQ(ParseRequest(R"({"id":-3,"method":"ps"})")->id, -3);
  EXPECT_EQ(ParseRequest(R"({"id":"a","method":"ps","params":{"x":1}})")->params["x"], 1);
  EXPECT_FALSE(ParseRequest(R"({"id":1.5,"method":"ps"})").ok());
  EXPECT_FALSE(ParseRequest("{\"id\":\"" + std::string(65, 'a') + "\",\"method\":\"ps\"}").ok());
}

TEST(ParseRequest, CountsDepthOutsideOfTextsOnly) {
  EXPECT_TRUE(
      ParseRequest(R"({"id":1,"method":"ps","params":{"t":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"[["}})")
          .ok());
  const std::string deep = std::string(kMaxDepth, '[') + std::string(kMaxDepth, ']');
  const absl::StatusOr<Request> refused =
      ParseRequest(R"({"id":1,"method":"ps","params":{"t":)" + deep + "}}");
  EXPECT_EQ(refused.status().message(), "request: JSON is nested more than 32 deep");
}

TEST(Lines, KeepBytesThatAreNoText) {
  EXPECT_EQ(ErrorLine(1, absl::NotFoundError("\xff\n")),
            "{\"id\":1,\"error\":{\"code\":5,\"name\":\"NOT_FOUND\",\"message\":\"\uFFFD\\n\"}}\n");
}

TEST(ErrorJson, ComesBackAsItWas) {
  const absl::Status status = absl::DataLossError("torn");
  EXPECT_EQ(ErrorFromJson(ErrorJson(status)), status);
  EXPECT_EQ(ErrorFromJson(Json{{"code", 0}, {"message", "x"}}).code(), absl::StatusCode::kUnknown);
  EXPECT_EQ(ErrorFromJson(Json{{"code", "5"}}).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace moult::control
