// SPDX-License-Identifier: Apache-2.0
#include "../../fuzz/messages.h"

#include "gtest/gtest.h"

namespace moult::fuzz {
namespace {

// Each list ends the program, and says why, when its own receiver refuses a message or a kind is missing.
TEST(FuzzMessages, AreOfEveryKind_AsTheSchemaHasThem) {
  EXPECT_EQ(Requests().size(), static_cast<size_t>(rpc::RequestBody::MAX));
  // A CaptureReport with pages, and one without.
  EXPECT_EQ(Responses().size(), static_cast<size_t>(rpc::ResponseBody::MAX) + 1);
}

}  // namespace
}  // namespace moult::fuzz
