// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/message.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moult::rpc {
namespace {

using ::testing::HasSubstr;

// Of a template that the agent keeps.
AttachT InShort() {
  AttachT attach;
  attach.name = "t";
  attach.spec = std::make_unique<FunctionSpecT>();
  attach.spec->name = "f";
  attach.spec->argv = {"/bin/true"};
  attach.source = PageSource::Window;
  attach.pages_size = 4096;
  attach.digest.assign(32, 1);
  return attach;
}

absl::Status Parse(AttachT attach) { return ParseRequest(Serialize(MakeRequest(std::move(attach)))).status(); }

TEST(AttachRequest, MayBeShort_OrWhole) {
  EXPECT_TRUE(Parse(InShort()).ok()) << Parse(InShort());
  AttachT whole = InShort();
  whole.image = {1};
  whole.manifest = {1};
  EXPECT_TRUE(Parse(std::move(whole)).ok());
}

TEST(AttachRequest, IsRefused_WhenHalf) {
  AttachT no_digest = InShort();
  no_digest.digest.clear();
  EXPECT_THAT(Parse(std::move(no_digest)).message(), HasSubstr("image: empty"));
  AttachT streamed = InShort();
  streamed.source = PageSource::Stream;
  EXPECT_THAT(Parse(std::move(streamed)).message(), HasSubstr("image: empty"));
  AttachT image_only = InShort();
  image_only.image = {1};
  EXPECT_THAT(Parse(std::move(image_only)).message(), HasSubstr("manifest: empty"));
  AttachT manifest_only = InShort();
  manifest_only.manifest = {1};
  EXPECT_THAT(Parse(std::move(manifest_only)).message(), HasSubstr("image: empty"));
  AttachT bad_digest = InShort();
  bad_digest.digest.pop_back();
  EXPECT_THAT(Parse(std::move(bad_digest)).message(), HasSubstr("digest: 31 bytes, not 32"));
}

}  // namespace
}  // namespace moult::rpc
